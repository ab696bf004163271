"""A warehouse with rows of every user in every table, counted, and two days published."""

import re
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from r2ec import schemas
from r2ec.infer.publish import publish
from r2ec.row_counts import write_row_counts
from r2ec.storage import Warehouse
from tests.factories.models import small_catalog
from tests.factories.scored import User, plan_of, score_shard, write_histories
from tests.factories.shop import write_catalog

DAYS = ("2024-05-30", "2024-05-31")
NUM_USERS = 12
LOG_LINES = (
    "u0003,B0001,5,never",
    '{"user_id": "u0003", "item": ""}',
    "u0004,B0001,5,never",
    "u00031,B0001,5,never",
    None,
)


def write_everything(warehouse: Warehouse) -> None:
    """Catalog, sequences, quarantine, and two published days of users u0000 … u0011."""
    write_catalog(warehouse, small_catalog(60))
    for place, split in enumerate(schemas.SPLITS):
        write_sequences(warehouse, split, place)
    rows = [
        {"source": "log.csv", "line": line, "reason": "bad_time", "run_id": "r"}
        for line in LOG_LINES
    ]
    write_counted(warehouse, schemas.QUARANTINE, rows, "job=build_sequences", f"date={DAYS[0]}")
    for day in DAYS:
        write_day(warehouse, day)
        publish(warehouse, day)


def write_day(warehouse: Warehouse, day: str, num_users: int = NUM_USERS) -> None:
    """Histories of a day and a run of it that is complete but not published; u0005 failed."""
    users = write_histories(warehouse, num_users, date=day)
    write_row_counts(warehouse, "histories", f"date={day}")
    score_day(warehouse, day, users)


def score_day(
    warehouse: Warehouse, day: str, users: list[User], shards: tuple[int, ...] = (0, 1)
) -> None:
    plan = plan_of(warehouse, date=day)
    for shard in shards:
        score_shard(warehouse, plan, shard, users, failed=("u0005",))


def write_sequences(warehouse: Warehouse, split: str, place: int) -> None:
    first = datetime(2024, 1, 1, tzinfo=UTC)
    rows = [
        {
            "sequence_id": place * NUM_USERS + number,
            "user_id": f"u{number:04d}",
            "history_item_index": [number, 1],
            "history_rating": [5.0, None],
            "history_time": [first, first + timedelta(days=1)],
            "target_item_index": 2,
            "target_rating": 4.0,
            "target_time": first + timedelta(days=30 * (place + 1)),
        }
        for number in range(NUM_USERS)
    ]
    write_counted(warehouse, schemas.SEQUENCES, rows, f"split={split}")


def write_counted(
    warehouse: Warehouse, table: schemas.Table, rows: list[dict[str, object]], *parts: str
) -> None:
    warehouse.write_parquet(
        pa.Table.from_pylist(rows, schema=table.schema), table.name, *parts, "part-0.parquet"
    )
    write_row_counts(warehouse, table.name, *parts)


def all_rows(warehouse: Warehouse) -> dict[str, list[str]]:
    """Rows of every Parquet file, staged and hidden ones too, each as text."""
    found = {}
    for path in warehouse.all_files():
        if path.endswith(".parquet"):
            with warehouse.filesystem.open_input_file(warehouse.path(path)) as stream:
                found[path] = [repr(row) for row in pq.read_table(stream).to_pylist()]
    return found


def mentions(warehouse: Warehouse, user: str) -> list[str]:
    """Files that hold the text anywhere, in Parquet values or in plain bytes."""
    rows = all_rows(warehouse)
    named = [path for path, lines in rows.items() if any(names(line, user) for line in lines)]
    others = [path for path in warehouse.all_files() if path not in rows]
    return sorted({*named, *(p for p in others if user.encode() in warehouse.read_file(p))})


def names(line: str, user: str) -> bool:
    """Whether the user's id stands in the text as a word."""
    return re.search(rf"\b{user}\b", line) is not None
