"""A warehouse for the queries: small enough to be counted by hand, with every edge they meet.

Three published dates with a day left out between them, the last without any list; lists that
stay, swap, grow, shrink, begin and end; scores that tie; texts that are null, empty or hold
wildcards; later purchases on the day itself, twice, at one time and too late.
"""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from r2ec import schemas
from r2ec.storage import Warehouse

FIRST, SECOND, LAST = "2024-06-01", "2024-06-03", "2024-06-04"
NOT_PUBLISHED = "2024-06-02"
VERSIONS = {FIRST: "2024-06-01", SECOND: "2024-06-03", LAST: "2024-06-03"}

ITEMS = (  # item_id, title, category, first_seen; the first version has the first four
    ("A0", "Red Lamp", "Home", "2024-01-01"),
    ("A1", "50% Wool_Sock", "Socks", "2024-01-01"),
    ("A2", "", None, None),
    ("A3", None, "", "2024-05-20"),
    ("A4", "Blue Mug", "Home", "2024-06-03"),
    ("A5", "Oak Desk", "Home", "2024-06-04"),
)
LISTS: dict[str, dict[str, list[int]]] = {
    FIRST: {"ann": [0, 1, 2], "bob": [0, 1, 2], "cat": [1, 0], "dan": [3], "gus": [0, 1]},
    SECOND: {
        "ann": [0, 1, 2],
        "bob": [1, 0, 2],
        "cat": [1, 0, 4],
        "eve": [4, 0],
        "fay": [2],
        "gus": [0],
    },
    LAST: {},
}
REASONS: dict[str, dict[str, dict[str, Any]]] = {
    FIRST: {user: {"reasoning": f"{user} before"} for user in LISTS[FIRST]},
    SECOND: {
        "ann": {"reasoning": "wants 50% wool_sock again", "status": "carried", "tokens": 10},
        "bob": {"reasoning": "likes 50x woolysock", "tokens": 20},
        "cat": {"reasoning": "a RED LAMP, a blue mug", "finish_reason": "length", "tokens": 30},
        "dan": {"finish_reason": None, "status": "error", "error": "out of memory; 'x'"},
        "eve": {"finish_reason": None},
        "fay": {"reasoning": "anything", "finish_reason": "eos", "tokens": 0},
        "gus": {"reasoning": "a blue mug"},
        "hal": {"finish_reason": None, "status": "error", "error": None},
    },
    LAST: {"ann": {"finish_reason": None, "status": "error", "error": "no history"}},
}
HISTORIES = {"ann": [0, 0], "bob": [0, 1], "fay": []}  # of SECOND
# User, item_index and days after SECOND of a purchase; sequence_id is the place in this order.
LATER = (
    ("ann", 0, 2),
    ("ann", 1, 1),
    ("ann", 1, 3),
    ("bob", 3, 1),
    ("bob", 2, 1),
    ("cat", 1, 0),
    ("cat", 4, 7),
    ("eve", 4, 8),
    ("dan", 0, 1),
)
COSTS: dict[str, dict[str, Any]] = {
    FIRST: {"num_carried": None, "users_per_second": None},
    SECOND: {"device_seconds": 7200.0, "price_per_hour": 1.5, "cost_per_1000_users": 375.0},
    LAST: {"device_seconds": 36.0, "price_per_hour": 2.0, "cost_per_1000_users": 20.0},
}


def make_query_warehouse(root: Path) -> Warehouse:
    """Write the warehouse under `root` and return it."""
    warehouse = Warehouse(str(root))
    for version, num_items in ((FIRST, 4), (SECOND, 6)):
        _write(warehouse, schemas.CATALOG, _catalog(num_items), f"version={version}")
    _write(warehouse, schemas.HISTORIES, _histories(), f"date={SECOND}")
    _write(warehouse, schemas.SEQUENCES, _sequences(), "split=test")
    for day, lists in LISTS.items():
        run_id = f"{day}-aaaaaaaaaaaa"
        _write_run(warehouse, day, run_id, lists, REASONS[day])
        _write(warehouse, schemas.RUNS, [_run(day, run_id)], f"date={day}", name="run.parquet")
    unseen = {"zoe": {"status": "error", "error": "not published"}, "yan": {}}
    _write_run(warehouse, SECOND, f"{SECOND}-ffffffffffff", {"yan": [5, 3]}, unseen)
    return warehouse


def noon(day: str, days: int = 0) -> datetime:
    """Noon of the day that lies `days` after `day`, UTC."""
    moment = date.fromisoformat(day) + timedelta(days=days)
    return datetime(moment.year, moment.month, moment.day, 12, tzinfo=UTC)


def _write(warehouse, table, rows, *parts, name="shard-00000-part-00000.parquet"):
    rows = pa.Table.from_pylist(rows, schema=table.schema)
    warehouse.write_parquet(rows, table.name, *parts, name)


def _write_run(warehouse, day, run_id, lists, reasons):
    ranked = [
        {
            "user_id": user,
            "rank": rank,
            "item_id": ITEMS[index][0],
            "item_index": index,
            "score": 4.0 - rank,
        }
        for user, indices in lists.items()
        for rank, index in enumerate(indices, start=1)
    ]
    texts = [
        {
            "user_id": user,
            "reasoning": row.get("reasoning"),
            "finish_reason": row.get("finish_reason", "marker"),
            "prompt_tokens": None if row.get("status") == "error" else 120,
            "reasoning_tokens": row.get("tokens"),
            "history_hash": f"hash of {user}",
            "status": row.get("status", "ok"),
            "error": row.get("error"),
        }
        for user, row in reasons.items()
    ]
    parts = (f"date={day}", f"run_id={run_id}")
    _write(warehouse, schemas.RECOMMENDATIONS, ranked, *parts)
    _write(warehouse, schemas.REASONING, texts, *parts)


def _run(day, run_id):
    row = {
        "run_id": run_id,
        "model": "0123456789ab",
        "catalog_version": VERSIONS[day],
        "num_shards": 1,
        "num_users": len(REASONS[day]),
        "num_errors": sum(row.get("status") == "error" for row in REASONS[day].values()),
        "num_recommendations": sum(map(len, LISTS[day].values())),
        "prompt_tokens": 120,
        "reasoning_tokens": 60,
        "wall_seconds": 2.5,
        "device_seconds": 2.0,
        "price_per_hour": None,
        "cost_per_1000_users": None,
        "published_at": noon(day, 1),
        "num_carried": 1,
        "users_per_second": 4.0,
        "catalog_fingerprint": None,
        "settings": None,
    }
    return row | COSTS[day]


def _catalog(num_items):
    return [
        {
            "item_index": index,
            "item_id": item_id,
            "title": title,
            "category": category,
            "first_seen": first_seen and noon(first_seen),
            "text_hash": "h",
        }
        for index, (item_id, title, category, first_seen) in enumerate(ITEMS[:num_items])
    ]


def _histories():
    return [
        {
            "user_id": user,
            "history_item_index": items,
            "history_rating": [5.0 for _ in items],
            "history_time": [noon(FIRST, place) for place, _ in enumerate(items)],
            "history_hash": f"hash of {user}",
        }
        for user, items in HISTORIES.items()
    ]


def _sequences():
    return [
        {
            "sequence_id": number,
            "user_id": user,
            "history_item_index": [0],
            "history_rating": [4.0],
            "history_time": [noon(FIRST)],
            "target_item_index": index,
            "target_rating": 5.0,
            "target_time": noon(SECOND, days),
        }
        for number, (user, index, days) in enumerate(LATER)
    ]
