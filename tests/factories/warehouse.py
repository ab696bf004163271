"""A small warehouse made by hand: three users, six items, two published dates, and what must
stay unseen (a run that is not published, staged and half-written files)."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from r2ec import schemas
from r2ec.storage import Warehouse

FIRST_DATE, SECOND_DATE = "2024-05-30", "2024-05-31"
OLD_VERSION, NEW_VERSION = "2024-05-01", "2024-05-31"
RUNS = {FIRST_DATE: "2024-05-30-aaaaaaaaaaaa", SECOND_DATE: "2024-05-31-bbbbbbbbbbbb"}
MODEL = "0123456789ab"

ITEMS = (
    ("B0PRINTER", "Halmont Inkjet Printer", "Office > Printers", "Halmont", 99.0),
    ("B0INK", "Halmont Ink Cartridge, 4-Pack", "Office > Ink", "Halmont", 24.5),
    ("B0GUITAR", "Koravex Guitar 🎸 <Classic>", "Music > Guitars", "Koravex", None),
    ("B0STRINGS", "Koravex Guitar Strings", "Music > Strings", None, 8.0),
    ("B0KETTLE", "Solinova Tea Kettle", None, "Solinova", 42.0),
    ("B0TEA", "Solinova Loose Leaf Tea; DROP TABLE runs; --", "", "Solinova", 14.0),
)
# User -> item_index and rating of each event, a day apart, the last on the day of the date.
HISTORIES = {
    FIRST_DATE: {"ann": [(0, 5.0)], "bob": [(2, 4.0), (4, 3.0)]},
    SECOND_DATE: {
        "ann": [(0, 5.0), (4, 4.0)],
        "bob": [(2, 4.0), (4, 3.0)],
        "o'hara": [(4, None)],
    },
}
# User -> the items of the published list, best first.
LISTS = {
    FIRST_DATE: {"ann": [1, 4, 3], "bob": [3, 0, 1]},
    SECOND_DATE: {"ann": [1, 3, 5], "bob": [3, 0, 1], "o'hara": [5, 1, 0]},
}
# User, item_index and days after SECOND_DATE of what was bought later.
LATER = (("ann", 1, 1), ("ann", 2, 2), ("bob", 5, 3), ("o'hara", 5, 9))


def make_warehouse(root: Path) -> Warehouse:
    """Write the warehouse under `root` and return it."""
    warehouse = Warehouse(str(root))
    for version, num_items in ((OLD_VERSION, 5), (NEW_VERSION, 6)):
        _write(warehouse, schemas.CATALOG, _catalog_rows(num_items), f"version={version}")
    for day, users in HISTORIES.items():
        rows = [_history_row(day, user, events) for user, events in users.items()]
        _write(warehouse, schemas.HISTORIES, rows, f"date={day}")
    _write(warehouse, schemas.SEQUENCES, _sequence_rows(), "split=test")
    _write(
        warehouse, schemas.QUARANTINE, [_quarantine_row()], "job=build_catalog", "date=2024-05-31"
    )
    _write(warehouse, schemas.METRICS, [_metric_row()])
    for day, run_id in RUNS.items():
        version = OLD_VERSION if day == FIRST_DATE else NEW_VERSION
        _write_run(warehouse, day, run_id, LISTS[day])
        row = [_run_row(run_id, version, len(LISTS[day]))]
        _write(warehouse, schemas.RUNS, row, f"date={day}", name="run.parquet")
    hide_rows_that_no_reader_may_see(warehouse)
    return warehouse


def hide_rows_that_no_reader_may_see(warehouse: Warehouse) -> None:
    """An older run of a date, a staged run, and a file that is still being written."""
    unseen = {"eve": [4, 4, 4]}
    _write_run(warehouse, SECOND_DATE, "2024-05-31-ffffffffffff", unseen)
    staged = _recommendation_rows(unseen)
    folder = ("_staging", "score", f"date={SECOND_DATE}", "run_id=x", "recommendations")
    warehouse.write_parquet(_table(schemas.RECOMMENDATIONS, staged), *folder, "part.parquet")
    published = (f"date={SECOND_DATE}", f"run_id={RUNS[SECOND_DATE]}", ".part.parquet.tmp")
    warehouse.replace_file(b"half a file", "recommendations", *published)


def day_time(day: str, days: int = 0) -> datetime:
    """Noon of the day that lies `days` after `day`, UTC."""
    moment = date.fromisoformat(day) + timedelta(days=days)
    return datetime(moment.year, moment.month, moment.day, 12, tzinfo=UTC)


def _write_run(warehouse: Warehouse, day: str, run_id: str, lists: dict[str, list[int]]) -> None:
    parts = (f"date={day}", f"run_id={run_id}")
    reasons = [_reasoning_row(user) for user in lists]
    _write(warehouse, schemas.RECOMMENDATIONS, _recommendation_rows(lists), *parts)
    _write(warehouse, schemas.REASONING, reasons, *parts)


def _write(warehouse, table, rows, *parts, name="shard-00000-part-00000.parquet"):
    warehouse.write_parquet(_table(table, rows), table.name, *parts, name)


def _table(table: schemas.Table, rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=table.schema)


def _catalog_rows(num_items):
    return [
        {
            "item_index": index,
            "item_id": item_id,
            "title": title,
            "description": f"About {title}",
            "category": category,
            "store": store,
            "price": price,
            "first_seen": day_time("2024-01-01", index),
            "text_hash": f"{index:064x}",
        }
        for index, (item_id, title, category, store, price) in enumerate(ITEMS[:num_items])
    ]


def _history_row(day, user, events):
    times = [day_time(day, place - len(events) + 1) for place in range(len(events))]
    return {
        "user_id": user,
        "history_item_index": [index for index, _ in events],
        "history_rating": [rating for _, rating in events],
        "history_time": times,
        "history_hash": f"hash of {user} on {day}",
    }


def _sequence_rows():
    return [
        {
            "sequence_id": number,
            "user_id": user,
            "history_item_index": [0],
            "history_rating": [4.0],
            "history_time": [day_time(SECOND_DATE)],
            "target_item_index": index,
            "target_rating": 5.0,
            "target_time": day_time(SECOND_DATE, days),
        }
        for number, (user, index, days) in enumerate(LATER)
    ]


def _recommendation_rows(lists):
    return [
        {
            "user_id": user,
            "rank": rank,
            "item_id": ITEMS[index][0],
            "item_index": index,
            "score": 10.0 - rank / 4,
        }
        for user, indices in sorted(lists.items())
        for rank, index in enumerate(indices, start=1)
    ]


def _reasoning_row(user):
    return {
        "user_id": user,
        "reasoning": f"{user} likes music [bold]and[/bold] tea\x1b[31m",
        "finish_reason": "marker",
        "prompt_tokens": 120,
        "reasoning_tokens": 14,
        "history_hash": f"hash of {user}",
        "status": "ok",
        "error": None,
    }


def _run_row(run_id, version, num_users):
    return {
        "run_id": run_id,
        "model": MODEL,
        "catalog_version": version,
        "num_shards": 1,
        "num_users": num_users,
        "num_errors": 0,
        "num_recommendations": 3 * num_users,
        "prompt_tokens": 120 * num_users,
        "reasoning_tokens": 14 * num_users,
        "wall_seconds": 2.5,
        "device_seconds": 2.0,
        "price_per_hour": None,
        "cost_per_1000_users": None,
        "published_at": day_time(run_id[:10], 1),
        "num_carried": 0,
        "users_per_second": num_users / 2.5,
        "catalog_fingerprint": "0123456789abcdef",
        "settings": '{"top_k": 3}',
    }


def _quarantine_row():
    row = {"source": "log.csv.gz", "line": "a,,5,x", "reason": "no_item"}
    return {**row, "run_id": "build_catalog-1"}


def _metric_row():
    row = {"run_id": "r", "model": MODEL, "split": "valid", "metric": "ndcg@10", "value": 0.25}
    return {**row, "ci_low": 0.2, "ci_high": 0.3, "users": 100}
