"""Users to look at: history, reasoning, list, and what they bought later."""

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from r2ec.endings import told_ending
from r2ec.errors import NotReadyError
from r2ec.report.marks import common_words, mark_names

if TYPE_CHECKING:
    import duckdb

_READ_AT_ONCE = 200

DRAW_SQL = """
SELECT user_id FROM reasoning
WHERE date = CAST($date AS DATE)
ORDER BY md5(user_id), user_id
LIMIT $count
"""
NAMED_SQL = "SELECT unnest($users) AS user_id"
REASONING_SQL = f"""
SELECT user_id, reasoning, finish_reason, reasoning_tokens, status, error
FROM reasoning
WHERE date = CAST($date AS DATE) AND user_id IN ({NAMED_SQL})
"""
HISTORY_SQL = f"""
SELECT user_id, event_time, rating, item_id, title, store
FROM v_user_history
WHERE date = CAST($date AS DATE) AND user_id IN ({NAMED_SQL})
ORDER BY user_id, position
"""
LIST_SQL = f"""
SELECT user_id, rank, score, item_id, item_index, title, store, price
FROM v_recommendations
WHERE date = CAST($date AS DATE) AND user_id IN ({NAMED_SQL}) AND rank <= $top_k
ORDER BY user_id, rank
"""
TITLES_SQL = """
SELECT title FROM catalog
WHERE version = (SELECT max(every.version) FROM catalog AS every) AND title IS NOT NULL
ORDER BY md5(item_id)
LIMIT 20000
"""
LATER_SQL = f"""
SELECT sequences.user_id, target_time, target_item_index AS item_index, item_id, title
FROM sequences
LEFT JOIN catalog
    ON
        catalog.item_index = target_item_index
        AND catalog.version = (SELECT max(every.version) FROM catalog AS every)
WHERE
    sequences.user_id IN ({NAMED_SQL})
    AND CAST(target_time AS DATE) > CAST($date AS DATE)
    AND CAST(target_time AS DATE) <= CAST($date AS DATE) + CAST($days AS INT)
ORDER BY sequences.user_id, target_time, sequence_id
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleSettings:
    """Which users: `named` first, then a draw of `count` by a hash; of each the `top_k` items.

    `days` is how long after the date a purchase counts as bought later.
    """

    date: str
    days: int
    count: int
    top_k: int
    named: Sequence[str]


def load_examples(
    views: "duckdb.DuckDBPyConnection", settings: ExampleSettings, *, max_bytes: int
) -> list[dict[str, Any]]:
    """The users as the page's script reads them, as many as fit into `max_bytes` of JSON.

    Raises `NotReadyError` for a named user without a reasoning on the date.
    """
    drawn = views.execute(DRAW_SQL, {"date": settings.date, "count": settings.count}).fetchall()
    users = list(dict.fromkeys([*settings.named, *(row[0] for row in drawn)]))
    common = common_words([row[0] for row in views.execute(TITLES_SQL).fetchall()])
    examples, room = list[dict[str, Any]](), max_bytes
    for first in range(0, len(users), _READ_AT_ONCE):
        for example in _examples(views, users[first : first + _READ_AT_ONCE], settings, common):
            room -= len(json.dumps(example).encode()) + 2
            if room < 0:
                return examples
            examples.append(example)
    return examples


def _examples(
    views: "duckdb.DuckDBPyConnection",
    users: list[str],
    settings: ExampleSettings,
    common: frozenset[str],
) -> Iterator[dict[str, Any]]:
    dated: dict[str, Any] = {"date": settings.date, "users": users}
    reasons = {row["user_id"]: row for row in _rows(views, REASONING_SQL, dated)}
    for user in users:
        if user not in reasons:
            raise NotReadyError(
                f"--user {user!r} has no reasoning on {settings.date}; "
                "check the id (it is the shop's own, case matters)"
            )
    histories = _by_user(_rows(views, HISTORY_SQL, dated))
    lists = _by_user(_rows(views, LIST_SQL, {**dated, "top_k": settings.top_k}))
    later = _by_user(_rows(views, LATER_SQL, {**dated, "days": settings.days}))
    for user in users:
        yield _example(
            settings.date,
            reasons[user],
            histories.get(user, []),
            lists.get(user, []),
            later.get(user, []),
            common,
        )


def _example(
    date: str,
    reason: dict[str, Any],
    history: list[dict[str, Any]],
    ranked: list[dict[str, Any]],
    later: list[dict[str, Any]],
    common: frozenset[str],
) -> dict[str, Any]:
    bought = {row["item_index"] for row in later}
    ranks = {row["item_index"]: row["rank"] for row in ranked}
    titles = [(row["rank"], row["title"]) for row in ranked if row["title"]]
    return {
        "user": reason["user_id"],
        "history": [
            {
                "time": _minute(row["event_time"]),
                "age": _age(row["event_time"], date),
                "rating": row["rating"],
                "title": _title(row),
                "store": row["store"] or "",
            }
            for row in history
        ],
        "reasoning": mark_names(reason["reasoning"] or "", titles, common),
        "ending": told_ending(
            reason["finish_reason"], reason["reasoning_tokens"], reason["status"]
        ),
        "status": reason["status"],
        "error": reason["error"],
        "list": [
            {
                "rank": row["rank"],
                "score": round(float(row["score"]), 4),
                "title": _title(row),
                "store": row["store"] or "",
                "price": row["price"],
                "bought": row["item_index"] in bought,
            }
            for row in ranked
        ],
        "later": [
            {
                "time": _minute(row["target_time"]),
                "title": _title(row),
                "rank": ranks.get(row["item_index"]),
            }
            for row in later
        ],
    }


def _rows(
    views: "duckdb.DuckDBPyConnection", sql: str, values: dict[str, Any]
) -> list[dict[str, Any]]:
    rows: pa.Table = views.sql(sql, params=values).to_arrow_table()
    return list(rows.to_pylist())


def _by_user(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["user_id"], []).append(row)
    return found


def _title(row: dict[str, Any]) -> str:
    return str(row["title"] or row["item_id"] or "(no longer in the catalog)")


def _minute(time: dt.datetime | None) -> str:
    return "" if time is None else time.strftime("%Y-%m-%d %H:%M")


def _age(time: dt.datetime | None, date: str) -> str:
    if time is None:
        return ""
    days = (dt.date.fromisoformat(date) - time.date()).days
    return {0: "that day", 1: "the day before"}.get(days, f"{days:,} days before")
