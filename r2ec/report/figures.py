"""What the tables say of a published date, for the report: one query a figure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r2ec import sql_files
from r2ec.warehouse_views import run_query

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]

STAGES_SQL = """
SELECT
    (SELECT count(*) FROM catalog WHERE version = CAST(runs.catalog_version AS DATE)) AS num_items,
    (SELECT count(*) FROM histories WHERE date = CAST(:date AS DATE)) AS num_histories,
    (SELECT count(*) FROM item_embeddings WHERE model = runs.model) AS num_embeddings
FROM runs
WHERE date = CAST(:date AS DATE)
"""
SPLITS_SQL = """
SELECT
    split,
    count(*) AS num_rows,
    count(DISTINCT user_id) AS num_users,
    min(target_time) AS first_time,
    max(target_time) AS last_time
FROM sequences
GROUP BY split
ORDER BY first_time, split
"""
LENGTHS_SQL = """
SELECT len(history_item_index) AS num_events, count(*) AS num_users
FROM histories
WHERE date = CAST(:date AS DATE)
GROUP BY num_events
ORDER BY num_events
"""
# The rejected rows of each job at the day that the date stands on. A job that was not run for that
# very day wrote them for one before, or, building several days at once, for the last of them.
QUARANTINE_SQL = """
WITH built AS (
    SELECT date, CAST(catalog_version AS DATE) AS version
    FROM runs
    WHERE date = CAST(:date AS DATE)
),
days AS (
    SELECT
        job,
        coalesce(
            max(quarantine.date) FILTER (
                quarantine.date
                <= CASE WHEN job = 'build_catalog' THEN built.version ELSE built.date END
            ),
            min(quarantine.date)
        ) AS date
    FROM quarantine
    CROSS JOIN built
    GROUP BY job
)
SELECT
    job,
    date,
    reason,
    count(*) AS num_rows,
    min(source) AS source,
    min_by(line, source) AS line
FROM quarantine
INNER JOIN days USING (job, date)
GROUP BY job, date, reason
ORDER BY num_rows DESC, job, reason
"""
# The items in fifty equal parts, from the most shown on: what share of all places have they?
CONCENTRATION_SQL = """
WITH items AS (
    SELECT item_index
    FROM catalog
    INNER JOIN runs ON catalog.version = CAST(runs.catalog_version AS DATE)
    WHERE runs.date = CAST(:date AS DATE)
),
shown AS (
    SELECT item_index, count(*) AS num_lists
    FROM recommendations
    WHERE date = CAST(:date AS DATE)
    GROUP BY item_index
),
ordered AS (
    SELECT
        coalesce(num_lists, 0) AS num_lists,
        row_number() OVER (ORDER BY coalesce(num_lists, 0) DESC, item_index) AS place,
        ntile(50) OVER (ORDER BY coalesce(num_lists, 0) DESC, item_index) AS part
    FROM items
    LEFT JOIN shown USING (item_index)
),
parts AS (
    SELECT part, max(place) AS num_items, sum(num_lists) AS num_lists FROM ordered GROUP BY part
)
SELECT
    num_items / max(num_items) OVER () AS item_share,
    sum(num_lists) OVER (ORDER BY part) / sum(num_lists) OVER () AS list_share
FROM parts
ORDER BY part
"""
RUN_SQL = "SELECT * FROM runs WHERE date = CAST(:date AS DATE)"
METRICS_SQL = """
SELECT run_id, model, split, metric, value, ci_low, ci_high, users FROM metrics
ORDER BY split, run_id, metric
"""
REASONING_LENGTHS_SQL = """
SELECT reasoning_tokens AS tokens, count(*) AS num_users
FROM reasoning
WHERE date = CAST(:date AS DATE) AND reasoning_tokens IS NOT NULL
GROUP BY 1
ORDER BY 1
"""
NAMED_SQL = """
SELECT
    count(DISTINCT user_id) FILTER (
        trim(title) <> '' AND position(lower(title) IN lower(reasoning)) > 0
    ) / nullif(count(DISTINCT user_id), 0) AS share
FROM v_recommendations
WHERE date = CAST(:date AS DATE)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class DateFigures:
    """A published date in figures; rows as the queries of `sql/queries` and those above give them.

    `later` compares the lists with what was bought within `days` days after the date.
    """

    date: str
    days: int
    run: Row
    stages: Row
    splits: list[Row]
    history_lengths: list[Row]
    quarantine: list[Row]
    metrics: list[Row]
    costs: list[Row]
    finish_reasons: list[Row]
    reasoning_lengths: list[Row]
    named_share: float | None
    errors: list[Row]
    coverage: Row
    concentration: list[Row]
    popularity: list[Row]
    new_items: Row
    change: Row
    rising: list[Row]
    later: Row
    calibration: list[Row]


def load_figures(views: "duckdb.DuckDBPyConnection", date: str, *, days: int) -> DateFigures:
    """Ask for all figures of a date that is published."""

    def rows(text: str) -> list[Row]:
        file = sql_files.parse_sql("report", "report", text)
        dated = "date" in sql_files.parameter_names(text)
        return list(run_query(views, file, {"date": date} if dated else {}).to_pylist())

    def query(name: str, **values: str) -> list[Row]:
        file = sql_files.find_sql(name)
        dated: Mapping[str, str] = {"date": date} if "date" in file.params else {}
        return list(run_query(views, file, {**dated, **values}).to_pylist())

    return DateFigures(
        date=date,
        days=days,
        run=rows(RUN_SQL)[0],
        stages=rows(STAGES_SQL)[0],
        splits=rows(SPLITS_SQL),
        history_lengths=rows(LENGTHS_SQL),
        quarantine=rows(QUARANTINE_SQL),
        metrics=rows(METRICS_SQL),
        costs=query("cost_per_day", last_date=date),
        finish_reasons=query("finish_reasons"),
        reasoning_lengths=rows(REASONING_LENGTHS_SQL),
        named_share=rows(NAMED_SQL)[0]["share"],
        errors=query("scoring_errors"),
        coverage=query("coverage_and_gini")[0],
        concentration=rows(CONCENTRATION_SQL),
        popularity=query("popularity_bias"),
        new_items=query("new_items_share")[0],
        change=query("change_from_day_before")[0],
        rising=query("rising_items", top="10"),
        later=query("hit_rate_and_ndcg_later", days=str(days))[0],
        calibration=query("score_calibration", days=str(days)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricTable:
    """The metrics of a split: a line a run, best NDCG first; `values` maps a metric to its row."""

    split: str
    metrics: list[str]
    lines: list["MetricLine"]
    scale: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricLine:
    """One run of `metrics`; `is_this_model` where it is the model of the report's date."""

    run_id: str
    users: int
    is_this_model: bool
    values: dict[str, Row]


def metric_tables(metrics: list[Row], model: str, *, bar: str = "ndcg@10") -> list[MetricTable]:
    """One table a split; `scale` is the largest upper end of the metric `bar`, for its bars."""
    tables = []
    for split in dict.fromkeys(row["split"] for row in metrics):
        here = [row for row in metrics if row["split"] == split]
        runs: dict[str, dict[str, Row]] = {}
        for row in here:
            runs.setdefault(row["run_id"], {})[row["metric"]] = row
        lines = [
            MetricLine(
                run_id=run_id,
                users=max(row["users"] for row in values.values()),
                is_this_model=any(row["model"] == model for row in values.values()),
                values=values,
            )
            for run_id, values in runs.items()
        ]
        lines.sort(key=lambda line: (-_value(line, bar), line.run_id))
        tables.append(
            MetricTable(
                split=split,
                metrics=sorted({row["metric"] for row in here}, key=_metric_order),
                lines=lines,
                scale=max((_upper(line, bar) for line in lines), default=0.0) or 1.0,
            )
        )
    order = {"test": 0, "valid": 1}
    return sorted(tables, key=lambda table: order.get(table.split, 2))


def budget_rows(metrics: list[Row], model: str) -> list[Row]:
    """N@10 of this model by the budget of its reasoning, as `evaluate` names such runs.

    Columns `split`, `budget`, `value`, `ci_low`, `ci_high`; of several draws of users the largest.
    """
    name = re.compile(rf"{re.escape(model)}-budget-(\d+)(?:-first-\d+)?")
    found: dict[tuple[str, int], Row] = {}
    for row in metrics:
        match = name.fullmatch(row["run_id"])
        if match is None or row["metric"] != "ndcg@10":
            continue
        key = (row["split"], int(match[1]))
        if key not in found or row["users"] > found[key]["users"]:
            found[key] = {**row, "budget": key[1]}
    return [found[key] for key in sorted(found)]


def _value(line: MetricLine, metric: str) -> float:
    return float(line.values[metric]["value"]) if metric in line.values else -1.0


def _upper(line: MetricLine, metric: str) -> float:
    row = line.values.get(metric, {})
    return float(row.get("ci_high") or row.get("value") or 0.0)


def _metric_order(metric: str) -> tuple[bool, int, str]:
    """N@10 and H@10 first, for a narrow screen shows the first columns."""
    name, _, k = metric.partition("@")
    return (k != "10", int(k) if k.isdigit() else 0, "" if name == "ndcg" else name)
