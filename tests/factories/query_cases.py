"""Every query of `sql/queries` over `query_warehouse`: parameters, and the rows counted by hand."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from math import log2
from typing import Any

from tests.factories.query_warehouse import FIRST, LAST, NOT_PUBLISHED, SECOND

FIRST_DAY, SECOND_DAY, LAST_DAY = (date.fromisoformat(day) for day in (FIRST, SECOND, LAST))
MODEL = "0123456789ab"
ANN, CAT = "wants 50% wool_sock again", "a RED LAMP, a blue mug"


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryCase:
    """A query, what its parameters are, and the rows it must give."""

    query: str
    rows: list[tuple[Any, ...]]
    values: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.query, *self.values.values()])


def case(query: str, *rows: tuple[Any, ...], **values: str) -> QueryCase:
    """A case; its rows stand before its parameters."""
    return QueryCase(query=query, rows=list(rows), values=values)


def rounded(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows with twelve digits of each float: what remains after sums in another order."""
    return [
        tuple(float(f"{value:.12g}") if isinstance(value, float) else value for value in row)
        for row in rows
    ]


CASES = [
    case(
        "user_recommendations",
        (1, "A1", "50% Wool_Sock", None, None, 3.0, CAT),
        (2, "A0", "Red Lamp", None, None, 2.0, CAT),
        (3, "A4", "Blue Mug", None, None, 1.0, CAT),
        date=SECOND,
        user_id="cat",
    ),
    case(
        "user_recommendations",
        (1, "A2", "", None, None, 3.0, "anything"),
        date=SECOND,
        user_id="fay",
    ),
    case("user_recommendations", date=SECOND, user_id="dan"),  # could not be scored
    case("user_recommendations", date=SECOND, user_id="yan"),  # of a run that is not published
    case(
        "rising_items",
        (4, "A4", "Blue Mug", 2, 0, 2, 2 / 6, 0.0),
        (0, "A0", "Red Lamp", 5, 4, 1, 5 / 6, 4 / 5),
        (2, "A2", "", 3, 2, 1, 3 / 6, 2 / 5),
        date=SECOND,
    ),
    case("rising_items", (4, "A4", "Blue Mug", 2, 0, 2, 2 / 6, 0.0), date=SECOND, top="1"),
    case("rising_items", date=FIRST),  # no day before
    case("rising_items", date=LAST),  # no lists
    case("coverage_and_gini", (6, 4, 4 / 6, 2 * 63 / (6 * 13) - 7 / 6), date=SECOND),
    case("coverage_and_gini", (4, 4, 1.0, 2 * 33 / (4 * 11) - 5 / 4), date=FIRST),
    case("coverage_and_gini", (6, 0, 0.0, None), date=LAST),
    case("coverage_and_gini", (0, 0, None, None), date=NOT_PUBLISHED),
    case(
        "catalog_coverage",
        ("(all)", 6, 4, 4 / 6),
        ("(none)", 2, 1, 1 / 2),
        ("Home", 3, 2, 2 / 3),
        ("Socks", 1, 1, 1.0),
        date=SECOND,
    ),
    case("catalog_coverage", ("(all)", 0, 0, None), date=NOT_PUBLISHED),
    case("new_items_share", (6, 2, 2 / 6, 13, 2, 2 / 13, 2 / 6), date=SECOND),
    case("new_items_share", (6, 2, 2 / 6, 13, 2, 2 / 13, 2 / 6), date=SECOND, days="15"),
    case("new_items_share", (6, 1, 1 / 6, 13, 2, 2 / 13, 2 / 6), date=SECOND, days="14"),
    case("new_items_share", (6, 3, 3 / 6, 0, 0, None, None), date=LAST),
    case("new_items_share", (0, 0, None, 0, 0, None, None), date=NOT_PUBLISHED),
    case(
        "popularity_bias",
        (1, 1, 3 / 4, 5 / 13, (5 / 13) / (3 / 4)),
        (2, 1, 1 / 4, 3 / 13, (3 / 13) / (1 / 4)),
        (3, 1, 0.0, 3 / 13, None),
        (4, 1, 0.0, 2 / 13, None),
        date=SECOND,
    ),
    case("popularity_bias", date=LAST),
    case("change_from_day_before", (FIRST_DAY, 6, 2, 11 / 12, 3 / 4, 1 / 4), date=SECOND),
    case("change_from_day_before", (None, 5, 5, None, None, None), date=FIRST),
    case("change_from_day_before", (SECOND_DAY, 0, 0, None, None, None), date=LAST),
    case(
        "changed_reasonings",
        ("bob", 2, "bob before", "likes 50x woolysock"),
        ("cat", 1, "cat before", CAT),
        ("gus", 1, "gus before", "a blue mug"),
        date=SECOND,
    ),
    case("changed_reasonings", date=FIRST),
    case("changed_reasonings", date=LAST),
    case("hit_rate_and_ndcg_later", (3, 2, 2 / 3, (1 / log2(3) + 0.5) / 3), date=SECOND),
    case("hit_rate_and_ndcg_later", (3, 1, 1 / 3, 1 / log2(3) / 3), date=SECOND, k="2"),
    case("hit_rate_and_ndcg_later", (4, 3, 3 / 4, (1 / log2(3) + 1.5) / 4), date=SECOND, days="8"),
    case("hit_rate_and_ndcg_later", (0, 0, None, None), date=SECOND, days="0"),
    case("hit_rate_and_ndcg_later", (0, 0, None, None), date=LAST),
    case(
        "ranks_of_next_purchases",
        ("ann", 1, 2),
        ("bob", 3, None),
        ("cat", 4, 3),
        date=SECOND,
    ),
    case(
        "ranks_of_next_purchases",
        ("ann", 1, 2),
        ("bob", 3, None),
        ("cat", 4, 3),
        ("eve", 4, 1),
        date=SECOND,
        days="8",
    ),
    case("ranks_of_next_purchases", date=LAST),
    case(
        "score_calibration",
        (1, 6, 3.0, 3.0, 1, 1 / 6),
        (5, 4, 2.0, 2.0, 1, 1 / 4),
        (8, 3, 1.0, 1.0, 2, 2 / 3),
        date=SECOND,
    ),
    case(
        "score_calibration",
        (1, 10, 2.0, 3.0, 2, 0.2),
        (2, 3, 1.0, 1.0, 2, 2 / 3),
        date=SECOND,
        bins="2",
    ),
    case("score_calibration", (1, 13, 1.0, 3.0, 0, 0.0), date=SECOND, bins="1", days="0"),
    case("score_calibration", date=LAST),
    case(
        "reasoning_names_title",
        ("ann", 2, "A1", "50% Wool_Sock", ANN),
        ("cat", 2, "A0", "Red Lamp", CAT),
        ("cat", 3, "A4", "Blue Mug", CAT),
        date=SECOND,
    ),
    case("reasoning_names_title", date=FIRST),
    case(
        "cost_per_day",
        (FIRST_DAY, MODEL, 5, 0, None, 2.5, 2.0, None, None, None, None),
        (SECOND_DAY, MODEL, 8, 2, 1, 2.5, 7200.0, 1.5, 3.0, 375.0, 4.0),
        (LAST_DAY, MODEL, 1, 1, 1, 2.5, 36.0, 2.0, 0.02, 20.0, 4.0),
    ),
    case(
        "cost_per_day",
        (SECOND_DAY, MODEL, 8, 2, 1, 2.5, 7200.0, 1.5, 3.0, 375.0, 4.0),
        first_date=NOT_PUBLISHED,
        last_date=SECOND,
    ),
    case(
        "finish_reasons",
        ("(none)", 3, 3 / 8, 0, None),
        ("marker", 3, 3 / 8, 1, 15.0),
        ("eos", 1, 1 / 8, 0, 0.0),
        ("length", 1, 1 / 8, 0, 30.0),
        date=SECOND,
    ),
    case("finish_reasons", date=NOT_PUBLISHED),
    case(
        "scoring_errors",
        ("dan", "out of memory; 'x'", None),
        ("hal", None, None),
        date=SECOND,
    ),
    case("scoring_errors", date=FIRST),
]
