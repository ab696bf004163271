"""What plain engines see of a warehouse, without our own readers."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import duckdb

from r2ec import sql_files
from r2ec.storage import Warehouse
from r2ec.warehouse_views import run_query, with_views


def visible_rows(warehouse: Warehouse) -> dict[str, tuple[int, int, int]]:
    """What a plain engine sees: run -> (recommendations, distinct (user, rank), reasonings)."""
    root, found = Path(warehouse.path()), {}
    if not list(root.glob("runs/*/run.parquet")):
        return {}
    counts = []
    with duckdb.connect() as connection:
        for table in ("recommendations", "reasoning"):
            keys = "user_id, rank" if table == "recommendations" else "user_id"
            if not list(root.glob(f"{table}/*/*/*.parquet")):
                counts.append({})
                continue
            rows = connection.execute(
                f"""
                SELECT run_id, count(*), count(DISTINCT ({keys}))
                FROM read_parquet('{root}/{table}/*/*/*.parquet', hive_partitioning = true) AS rows
                JOIN read_parquet('{root}/runs/*/*.parquet', hive_partitioning = true) AS runs
                USING (date, run_id) GROUP BY run_id
                """
            ).fetchall()
            counts.append({run: (rows, keys) for run, rows, keys in rows})
        runs = connection.execute(f"SELECT run_id FROM read_parquet('{root}/runs/*/*.parquet')")
        for (run,) in runs.fetchall():
            ranked, reasons = (count.get(run, (0, 0)) for count in counts)
            assert reasons[0] == reasons[1]
            found[run] = (ranked[0], ranked[1], reasons[0])
    return found


LOOK = """
WITH lists AS (
    SELECT count(*) AS num, count(DISTINCT (user_id, rank)) AS keys, min(run_id) AS run
    FROM recommendations WHERE date = CAST(:date AS DATE)
),

reasons AS (
    SELECT count(*) AS num, count(DISTINCT user_id) AS keys, min(run_id) AS run
    FROM reasoning WHERE date = CAST(:date AS DATE)
),

joined AS (
    SELECT count(*) AS num, count(reasoning) AS reasons, max(run_id) AS run
    FROM v_recommendations WHERE date = CAST(:date AS DATE)
)

SELECT
    [lists.num, lists.keys, reasons.num, reasons.keys, joined.num, joined.reasons] AS counts,
    coalesce(lists.run = reasons.run AND reasons.run = joined.run, true) AS is_one_run,
    joined.run
FROM lists, reasons, joined
"""


def look_through_views(warehouse: Warehouse, date: str) -> tuple[tuple[int, ...], str | None]:
    """What a query sees of a date, and of which run: rows and distinct keys of both tables, rows
    of the joined view and those with a reasoning."""
    file = sql_files.parse_sql("look", "look", LOOK)
    found = with_views(warehouse, lambda views: run_query(views, file, {"date": date}))
    row = found.to_pylist()[0]
    assert row["is_one_run"], "rows of two runs in one query"
    return tuple(row["counts"]), row["run"]


def contents(warehouse: Warehouse) -> dict[str, str]:
    """SHA-256 of every Parquet file that readers see, `runs` left out (it has a time)."""
    files = warehouse.list_files("recommendations") + warehouse.list_files("reasoning")
    return {file: hashlib.sha256(warehouse.read_file(file)).hexdigest() for file in files}


def damage(warehouse: Warehouse, path: str, change: Callable[[bytes], bytes]) -> None:
    file = Path(warehouse.path(path))
    file.write_bytes(change(file.read_bytes()))
