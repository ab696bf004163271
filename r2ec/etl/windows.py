"""Histories by arithmetic: which stretch of a user's events lies before a target or a day's end."""

import hashlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from r2ec.etl.chunks import Chunk, positions, repeat, shifted
from r2ec.schemas import HISTORIES, SEQUENCES, TIMESTAMP

# Rows made at once: with histories of 20 events, 1.3 million of them.
SLICE_ROWS = 65_536


def before_each_event(chunk: Chunk, *, window: int, strict_time: bool) -> tuple[pa.Array, pa.Array]:
    """For each event, int32: where its history begins and ends (the position after the last one).

    The history is the user's last `window` events before it in the order of the log; with
    `strict_time` before its time.
    """
    end = positions(chunk.size)
    if strict_time:
        user = chunk.per_event(positions(len(chunk.user_id)))
        changed = pc.or_(
            pc.not_equal(user, shifted(user, -1)),
            pc.fill_null(pc.not_equal(chunk.time, shifted(chunk.time, None)), True),
        )
        first = end.filter(changed)
        run_ends = pa.concat_arrays([first.slice(1), pa.array([chunk.size], pa.int32())])
        end = repeat(first, run_ends.slice(0, len(first)))
    start = chunk.per_event(chunk.starts)
    return pc.max_element_wise(start, pc.subtract(end, pa.scalar(window, pa.int32()))), end


def before_time(chunk: Chunk, *, until: int, window: int) -> tuple[pa.Array, pa.Array]:
    """For each user, int32: where their last `window` events before a time begin and end."""
    starts = chunk.starts
    ends = pc.add(starts, chunk.count(pc.less(chunk.time, pa.scalar(until))))
    return pc.max_element_wise(starts, pc.subtract(ends, pa.scalar(window, pa.int32()))), ends


def sequence_rows(
    chunk: Chunk, *, window: int, strict_time: bool, after: int | None, until: int | None
) -> Iterator[pa.Table]:
    """Rows of `sequences` for the targets with a history after one time, up to and at another."""
    begin, end = before_each_event(chunk, window=window, strict_time=strict_time)
    is_target = pc.greater(end, begin)
    if after is not None:
        is_target = pc.and_(is_target, pc.greater(chunk.time, pa.scalar(after)))
    if until is not None:
        is_target = pc.and_(is_target, pc.less_equal(chunk.time, pa.scalar(until)))
    targets = positions(chunk.size).filter(is_target)
    begin, end = begin.filter(is_target), end.filter(is_target)
    user = chunk.per_event(positions(len(chunk.user_id))).filter(is_target)
    for first in range(0, len(targets), SLICE_ROWS):
        part = slice(first, first + SLICE_ROWS)
        target = targets[part]
        columns = [
            chunk.place.take(target),
            chunk.user_id.take(user[part]),
            *history_lists(chunk, begin[part], end[part]),
            chunk.item_index.take(target),
            chunk.rating.take(target),
            chunk.time.take(target).cast(TIMESTAMP),
        ]
        yield pa.Table.from_arrays(columns, schema=SEQUENCES.schema)


def history_rows(chunk: Chunk, *, until: int, window: int) -> Iterator[pa.Table]:
    """Rows of `histories` at the end of a day, `until` being the next day's first microsecond."""
    begin, end = before_time(chunk, until=until, window=window)
    has_any = pc.greater(end, begin)
    users, begin, end = (array.filter(has_any) for array in (chunk.user_id, begin, end))
    by_user = pc.sort_indices(users)
    users, begin, end = (array.take(by_user) for array in (users, begin, end))
    for first in range(0, len(users), SLICE_ROWS):
        part = slice(first, first + SLICE_ROWS)
        columns = [
            users[part],
            *history_lists(chunk, begin[part], end[part]),
            history_hashes(chunk, begin[part], end[part]),
        ]
        yield pa.Table.from_arrays(columns, schema=HISTORIES.schema)


def history_lists(chunk: Chunk, begin: pa.Array, end: pa.Array) -> list[pa.Array]:
    """The three history lists of the stretches from `begin` to before `end` (none is empty)."""
    list_ends = pc.cumulative_sum(pc.subtract(end, begin))
    list_starts = shifted(list_ends, 0)
    moved = repeat(pc.subtract(begin, list_starts), list_ends)
    taken = pc.add(positions(len(moved)), moved)
    offsets = pa.concat_arrays([list_starts.slice(0, 1), list_ends])
    return [
        pa.ListArray.from_arrays(offsets, pc.take(values, taken, boundscheck=False))
        for values in (chunk.item_index, chunk.rating, chunk.time.cast(TIMESTAMP))
    ]


def history_hashes(chunk: Chunk, begin: pa.Array, end: pa.Array) -> pa.Array:
    """For each stretch: SHA-256, as hexadecimal text, of its items, ratings and times.

    Equal exactly when the histories are: 20 bytes an event, all items first, in the order of the
    machine (little-endian everywhere that Arrow runs). A missing rating counts as NaN.
    """
    ratings = pc.fill_null(chunk.rating, float("nan"))
    items, rated, times = (
        memoryview(array.buffers()[1])[array.offset * width :]
        for array, width in ((chunk.item_index, 8), (ratings, 4), (chunk.time, 8))
    )
    found = []
    for first, last in zip(begin.to_pylist(), end.to_pylist(), strict=True):
        digest = hashlib.sha256(items[8 * first : 8 * last])
        digest.update(rated[4 * first : 4 * last])
        digest.update(times[8 * first : 8 * last])
        found.append(digest.hexdigest())
    return pa.array(found, pa.string())
