"""Sorted rows of the log to chunks: exact duplicates and robots found, rejected rows set aside."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from r2ec.etl.arrow_map import ArrowTask
from r2ec.etl.chunks import (
    BINARY_COLUMNS,
    CHUNK_EVENTS,
    COLUMNS,
    Chunk,
    encode_table,
    positions,
    shifted,
    to_row,
)

# Not errors of the row: they leave the log, are counted, and are not put to quarantine.
OUTSIDE_WINDOW, IN_BASE, DROPPED_ITEM = "outside_window", "in_base", "dropped_item"
NO_ERRORS = (OUTSIDE_WINDOW, IN_BASE, DROPPED_ITEM)
UNKNOWN_ITEM = "unknown_item"
ROBOT = "robot"
_EVENT_COLUMNS = ("user_id", "item_index", "time", "rating", "place")
_DAY_MICROS = pa.scalar(86_400_000_000)

PACKED_SCHEMA = (
    f"{BINARY_COLUMNS}, rejected binary, reasons string, num_duplicates bigint, "
    "size bigint, first_time bigint, last_time bigint"
)
REJECTED_SCHEMA = "place bigint, line string, reason string"
_ARROW_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.binary()) for name in (*COLUMNS, "rejected")),
        pa.field("reasons", pa.string()),
        *(
            pa.field(name, pa.int64())
            for name in ("num_duplicates", "size", "first_time", "last_time")
        ),
    ]
)


def packer(order: list[str], max_user_events_per_day: int | None) -> ArrowTask:
    """The function that turns a partition's rows, sorted by `user_hash`, into chunk rows.

    A user's events are put in the order of the log: time, `order` columns, place.
    """
    log_order = [(name, "ascending") for name in ("user_id", "time", *order, "place")]

    def pack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in whole_users(batches):
            in_order = pc.sort_indices(rows, log_order)
            yield pack_rows(rows.take(in_order), max_user_events_per_day)

    return pack


def whole_users(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Tables of at least CHUNK_EVENTS rows (but the last) that never divide a user.

    Users are told apart by `user_hash`, by which the rows are sorted; rejected rows have none.
    """
    pending: list[pa.RecordBatch] = []
    num_pending, enough = 0, CHUNK_EVENTS
    for batch in batches:
        pending.append(batch)
        num_pending += batch.num_rows
        if num_pending < enough:
            continue
        table = pa.Table.from_batches(pending)
        cut = _start_of_last_user(table["user_hash"])
        if cut:
            yield table.slice(0, cut)
            pending = table.slice(cut).to_batches()
            num_pending = table.num_rows - cut
        # One user fills it all: look again when there is twice as much.
        enough = max(CHUNK_EVENTS, 2 * num_pending)
    if num_pending:
        yield pa.Table.from_batches(pending)


def _start_of_last_user(user_hash: pa.ChunkedArray) -> int:
    last = user_hash[-1]
    if not last.is_valid:
        return len(user_hash)
    return int(pc.index(user_hash, last).as_py())


def pack_rows(rows: pa.Table, max_user_events_per_day: int | None) -> pa.RecordBatch:
    """One row of `PACKED_SCHEMA` for the rows of whole users."""
    is_event = pc.is_null(rows["reason"])
    chunk, lines = _chunk(rows.filter(is_event))
    rejected = rows.filter(pc.invert(is_event)).select(["place", "line", "reason"])
    num_rows = chunk.size
    is_first = first_of_equals(chunk)
    if is_first is not None:
        chunk, lines = chunk.where(is_first), lines.filter(is_first)
    num_duplicates = num_rows - chunk.size
    if max_user_events_per_day is not None:
        is_robot = chunk.per_event(robots(chunk, max_user_events_per_day))
        found = pa.table(
            {
                "place": chunk.place.filter(is_robot),
                "line": lines.filter(is_robot),
                "reason": pa.repeat(ROBOT, pc.sum(is_robot).as_py() or 0),
            }
        )
        rejected = pa.concat_tables([rejected, found.cast(rejected.schema)])
        chunk = chunk.where(pc.invert(is_robot))
    return _row(chunk, rejected, num_duplicates)


def first_of_equals(chunk: Chunk) -> pa.Array | None:
    """For each event: is it the first of those of equal user, time, item and rating? None: all are.

    Only events that share user and time with a neighbour are looked into.
    """
    user = chunk.per_event(positions(len(chunk.user_id)))
    same = pc.and_(
        pc.equal(user, shifted(user, -1)), pc.equal(chunk.time, shifted(chunk.time, None))
    )
    same = pc.fill_null(same, False)
    if not pc.any(same).as_py():
        return None
    followed = pa.concat_arrays([same.slice(1), pa.array([False])])
    tied = pc.or_(same, followed)
    position = positions(chunk.size)
    keys = pa.table(
        {
            "user": user.filter(tied),
            "time": chunk.time.filter(tied),
            "item": chunk.item_index.filter(tied),
            "rating": chunk.rating.filter(tied),
            "position": position.filter(tied),
        }
    )
    first = keys.group_by(["user", "time", "item", "rating"]).aggregate([("position", "min")])
    if first.num_rows == keys.num_rows:
        return None
    is_first = pc.is_in(position, value_set=first["position_min"])
    return pc.or_(pc.invert(tied), is_first)


def robots(chunk: Chunk, max_user_events_per_day: int) -> pa.Array:
    """For each user: do they have more events than that on any one day (UTC)?"""
    user = chunk.per_event(positions(len(chunk.user_id)))
    days = pa.table({"user": user, "day": pc.divide(chunk.time, _DAY_MICROS)})
    counts = days.group_by(["user", "day"]).aggregate([([], "count_all")])
    busy = counts.filter(pc.greater(counts["count_all"], max_user_events_per_day))
    return pc.is_in(positions(len(chunk.user_id)), value_set=pc.unique(busy["user"]))


def _chunk(events: pa.Table) -> tuple[Chunk, pa.Array]:
    """The events as a chunk, and their lines."""
    columns = {name: events[name].combine_chunks() for name in (*_EVENT_COLUMNS, "line")}
    lines = columns.pop("line")
    return Chunk.of_rows(**columns), lines


def _row(chunk: Chunk, rejected: pa.Table, num_duplicates: int) -> pa.RecordBatch:
    reasons = Counter(rejected["reason"].to_pylist())
    told = rejected.filter(
        pc.invert(pc.is_in(rejected["reason"], value_set=pa.array(NO_ERRORS)))
    ).combine_chunks()
    times = pc.min_max(chunk.time).as_py()
    row = {
        **to_row(chunk),
        "rejected": encode_table(told.to_batches()[0]) if told.num_rows else None,
        "reasons": json.dumps(reasons),
        "num_duplicates": num_duplicates,
        "size": chunk.size,
        "first_time": times["min"],
        "last_time": times["max"],
    }
    return pa.RecordBatch.from_pylist([row], schema=_ARROW_SCHEMA)


def unpack_rejected(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rejected rows (`REJECTED_SCHEMA`) of the rows that have any."""
    for batch in batches:
        for data in batch.column("rejected"):
            yield from pa.ipc.open_stream(data.as_buffer())
