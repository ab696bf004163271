"""A day's new events merged into the histories of an earlier day, as a full build would have them.

A history holds a user's last `window` events. New events at its times come after it: they lie in
files that follow those it was made from. What was cut off its beginning cannot matter, but for one
case: a full history and a new event at the very time of its oldest entry, yet unlike the entries of
that time. Whether it is an exact duplicate of one that was cut off cannot be told; such users are
counted as undecided.
"""

import pyarrow as pa
import pyarrow.compute as pc

from r2ec.etl.chunks import Chunk, positions
from r2ec.etl.packing import first_of_equals
from r2ec.etl.windows import history_rows

# The new events: a row each, in the order of the log for each user.
EVENTS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_index", pa.int64(), nullable=False),
        pa.field("rating", pa.float32()),
        pa.field("time", pa.int64(), nullable=False),
        pa.field("place", pa.int64(), nullable=False),
    ]
)
_LOG_ORDER = [(name, "ascending") for name in ("user_id", "time", "place")]


def event_rows(chunk: Chunk) -> pa.Table:
    """The chunk's events as rows of `EVENTS`."""
    users = chunk.user_id.take(chunk.per_event(positions(len(chunk.user_id))))
    columns = [users, chunk.item_index, chunk.rating, chunk.time, chunk.place]
    return pa.Table.from_arrays(columns, schema=EVENTS)


def merge_histories(
    known: pa.Table, events: pa.Table, *, until: int, window: int
) -> tuple[pa.Table, int]:
    """The histories of `known` with the events before a time; users without events stay.

    `known` has rows of `HISTORIES`, `events` rows of `EVENTS`. Returns rows sorted by user, and the
    number of undecided users.
    """
    changed = pc.is_in(known["user_id"], value_set=pc.unique(events["user_id"]))
    if not pc.any(changed).as_py():
        return known, 0
    old = known.filter(changed)
    new = events.filter(pc.is_in(events["user_id"], value_set=old["user_id"]))
    entries = _entries(old)
    chunk = _chunk(pa.concat_tables([entries, new]))
    merged = pa.concat_tables([*history_rows(chunk, until=until, window=window)])
    rows = pa.concat_tables([known.filter(pc.invert(changed)), merged])
    by_user = pc.sort_indices(rows["user_id"])
    return rows.take(by_user), _num_undecided(old, entries, new, window)


def _entries(histories: pa.Table) -> pa.Table:
    """The entries of histories as events; their places are negative, so they come before others."""
    lists = histories["history_item_index"].combine_chunks()
    owner = pc.list_parent_indices(lists).cast(pa.int32())
    items = lists.flatten()
    columns = [
        histories["user_id"].take(owner),
        items,
        histories["history_rating"].combine_chunks().flatten(),
        histories["history_time"].combine_chunks().flatten().cast(pa.int64()),
        pc.subtract(positions(len(items)).cast(pa.int64()), pa.scalar(len(items))),
    ]
    return pa.Table.from_arrays(columns, schema=EVENTS)


def _chunk(events: pa.Table) -> Chunk:
    events = events.take(pc.sort_indices(events, _LOG_ORDER)).combine_chunks()
    columns = {name: events[name].combine_chunks() for name in EVENTS.names}
    chunk = Chunk.of_rows(**columns)
    is_first = first_of_equals(chunk)
    return chunk if is_first is None else chunk.where(is_first)


def _num_undecided(old: pa.Table, entries: pa.Table, new: pa.Table, window: int) -> int:
    lists = old["history_time"].combine_chunks()
    is_full = pc.greater_equal(pc.list_value_length(lists), window)
    full = lists.filter(is_full)
    if not len(full):
        return 0
    oldest = pc.list_element(full, 0).cast(pa.int64())
    users = old["user_id"].combine_chunks().filter(is_full)
    at_oldest = pa.table({"user_id": users, "time": oldest})
    met = _keys(new).join(at_oldest, ["user_id", "time"], join_type="inner")
    unheard = met.join(_keys(entries), met.column_names, join_type="left anti")
    return len(pc.unique(unheard["user_id"]))


def _keys(events: pa.Table) -> pa.Table:
    """What makes two events exact duplicates; a missing rating equals another one."""
    columns = [events[name] for name in ("user_id", "time", "item_index")]
    rating = pc.fill_null(events["rating"], float("-inf"))
    return pa.table([*columns, rating], names=["user_id", "time", "item_index", "rating"])
