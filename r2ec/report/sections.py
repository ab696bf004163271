"""The charts and tiles of the report, from figures and curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from r2ec.report.charts import Chart, Series, bar_chart, line_chart
from r2ec.report.figures import DateFigures, Row, budget_rows
from r2ec.report.training import Training

MOST_DATES = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """A figure that stands for itself: what, how much, and what it is measured by."""

    name: str
    value: str
    note: str = ""


def count(value: float | None) -> str:
    """1234567 as 1,234,567."""
    return "–" if value is None else f"{value:,.0f}"


def small(value: float | None) -> str:
    """Figures between 0 and 1, such as N@10, to four places."""
    return "–" if value is None else f"{value:.4f}"


def share(value: float | None) -> str:
    """0.1234 as 12.3 %, 0.00123 as 0.12 %."""
    if value is None:
        return "–"
    return f"{100 * value:.2g} %" if 0.0001 <= abs(value) < 0.01 else f"{100 * value:.1f} %"


def plain(value: float | None) -> str:
    """A number of any size to about four digits."""
    if value is None:
        return "–"
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.4g}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:,.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"


def tiles(figures: DateFigures) -> list[Tile]:
    """What somebody who opens the page wants to know first."""
    run, later, covered = figures.run, figures.later, figures.coverage
    found = [
        Tile(name="Users with a list", value=count(run["num_users"] - run["num_errors"])),
        Tile(
            name="Failed users",
            value=count(run["num_errors"]),
            note=share(run["num_errors"] / max(1, run["num_users"])),
        ),
        Tile(
            name="Items shown to anybody",
            value=share(covered["coverage"]),
            note=f"{count(covered['num_shown'])} of {count(covered['num_items'])}",
        ),
        Tile(
            name="Users a second",
            value=plain(run["users_per_second"]),
            note=f"{duration(run['wall_seconds'])} in all",
        ),
    ]
    if run["cost_per_1000_users"] is not None:
        price = f"at {plain(run['price_per_hour'])} an hour"
        found.append(
            Tile(name="Cost of 1,000 users", value=plain(run["cost_per_1000_users"]), note=price)
        )
    if later["num_users"]:
        who = f"{count(later['num_users'])} users who bought within {figures.days} days"
        found.append(Tile(name="H@10, next purchase", value=small(later["hit_rate"]), note=who))
        found.append(Tile(name="N@10, next purchase", value=small(later["ndcg"]), note=who))
    return found


def training_charts(training: Training) -> list[Chart]:
    """Curves of both stages; what was not told is left out."""

    def series(stage: str, **names: str) -> list[Series]:
        return [
            Series(name=name, points=training.curves.get((stage, figure), []))
            for figure, name in names.items()
        ]

    wanted = [
        line_chart(
            f"N@10 on valid, {stage}",
            [Series(name="N@10", points=training.curves.get((key, "valid_ndcg@10"), []))],
            x_label="step",
            number=small,
        )
        for key, stage in (("contrastive", "contrastive stage"), ("recpo", "RecPO"))
    ]
    wanted += [
        line_chart(
            "Losses, contrastive stage",
            series("contrastive", item_loss="item loss", language_loss="language loss"),
            x_label="step",
            number=plain,
        ),
        line_chart(
            "Reward, RecPO",
            series(
                "recpo",
                reward_mean="reward R",
                reward_discrete_mean="R_d, by rank",
                reward_continuous_mean="R_c, by probability",
            ),
            x_label="step",
            number=small,
            note="R = beta·R_c + (1 - beta)·R_d, means over the batch",
        ),
        line_chart(
            "Spread of the reward, RecPO",
            series("recpo", reward_std="over the batch", reward_group_std="within a group"),
            x_label="step",
            number=small,
            note="what advantages are made of; at 0 nothing is learnt",
        ),
        line_chart(
            "Length of the reasoning, RecPO",
            series("recpo", reasoning_tokens="tokens"),
            x_label="step",
            number=plain,
        ),
        line_chart(
            "Entropy, RecPO",
            series("recpo", entropy="nats a token"),
            x_label="step",
            number=plain,
            note="at 0 every reasoning is the same",
        ),
        line_chart(
            "Clipped tokens, RecPO",
            series("recpo", clip_fraction="share of tokens"),
            x_label="step",
            number=share,
        ),
        line_chart(
            "Norm of the gradient, RecPO",
            series("recpo", grad_norm="norm"),
            x_label="step",
            number=plain,
        ),
        line_chart(
            "Groups of equal rewards, RecPO",
            series("recpo", zero_variance_share="share of groups"),
            x_label="step",
            number=share,
            note="they give no gradient and are skipped",
        ),
    ]
    return [chart for chart in wanted if chart is not None]


def budget_chart(metrics: list[Row], model: str) -> Chart | None:
    """Accuracy against the reasoning budget; None below two budgets."""
    rows = budget_rows(metrics, model)
    if len({row["budget"] for row in rows}) < 2:
        return None
    lines = []
    for split in dict.fromkeys(row["split"] for row in rows):
        here = [row for row in rows if row["split"] == split]
        lines.append(
            Series(
                name=split,
                points=[(float(row["budget"]), row["value"]) for row in here],
                intervals=[
                    (_or(row["ci_low"], row["value"]), _or(row["ci_high"], row["value"]))
                    for row in here
                ],
            )
        )
    return line_chart("N@10", lines, x_label="most tokens of reasoning", number=small)


def data_charts(figures: DateFigures) -> list[Chart]:
    """Lengths of histories and of reasonings."""
    lengths = _binned([(r["num_events"], r["num_users"]) for r in figures.history_lengths], 20)
    charts = [
        bar_chart(
            "Events in a history",
            [label for label, _ in lengths],
            [("users", [value for _, value in lengths])],
            x_label="events in the window",
            number=count,
        )
    ]
    return [chart for chart in charts if chart is not None]


def list_charts(figures: DateFigures) -> list[Chart]:
    """Coverage, popularity, calibration, lengths of reasonings."""
    tokens = _binned([(r["tokens"], r["num_users"]) for r in figures.reasoning_lengths], 20)
    bought = sum(row["num_bought"] for row in figures.calibration)
    tenths = [row for row in figures.popularity if row["recommendation_share"] is not None]
    covered = figures.coverage
    charts = [
        line_chart(
            "How few items fill the lists?",
            [Series(name="share of all places", points=_concentration(figures.concentration))],
            x_label="% of the catalog, the most shown items first",
            number=share,
            note=f"{count(covered['num_shown'])} of {count(covered['num_items'])} items are shown",
        ),
        bar_chart(
            "Do lists go to what sells anyway?",
            [str(row["tenth"]) for row in tenths],
            [
                ("purchases", [row["purchase_share"] or 0.0 for row in tenths]),
                ("recommendations", [row["recommendation_share"] for row in tenths]),
            ],
            x_label="tenth of the items, 1 the most bought",
            number=share,
        ),
        bar_chart(
            "Does a higher score mean a purchase?",
            [str(row["bin"]) for row in figures.calibration] if bought else [],
            [("bought", [row["bought_share"] for row in figures.calibration])],
            x_label="tenth of the scores, 1 the highest",
            number=share,
            note=f"share of recommendations bought within {figures.days} days",
        ),
        bar_chart(
            "Length of the reasonings",
            [label for label, _ in tokens],
            [("users", [value for _, value in tokens])],
            x_label="tokens",
            number=count,
        ),
    ]
    return [chart for chart in charts if chart is not None]


def _concentration(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """The points of the curve from nought on; none where nothing is shown."""
    points = [
        (100 * row["item_share"], float(row["list_share"]))
        for row in rows
        if row["list_share"] is not None
    ]
    return [(0.0, 0.0), *points] if points else []


def cost_charts(costs: Sequence[Row]) -> list[Chart]:
    """What the dates cost, the last ones; none for a single date."""
    rows = costs[-MOST_DATES:]
    if len(rows) < 2:
        return []
    labels = [row["date"].strftime("%m-%d") for row in rows]
    charts = [
        bar_chart(
            "Device hours",
            labels,
            [("hours", [row["device_seconds"] / 3600 for row in rows])],
            x_label="date",
            number=plain,
        ),
        bar_chart(
            "Users a second",
            labels,
            [("users a second", [row["users_per_second"] or 0.0 for row in rows])],
            x_label="date",
            number=plain,
        ),
    ]
    return [chart for chart in charts if chart is not None]


def _binned(counts: Sequence[tuple[int, int]], most: int) -> list[tuple[str, float]]:
    """Counts by value, in at most about so many bins of equal width, the empty ones included."""
    if not counts:
        return []
    low, high = min(value for value, _ in counts), max(value for value, _ in counts)
    width = math.ceil((high - low + 1) / most)
    return [
        (
            str(start) if width == 1 else f"{start}–{start + width - 1}",
            float(sum(number for value, number in counts if start <= value < start + width)),
        )
        for start in range(low, high + 1, width)
    ]


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
