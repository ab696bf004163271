"""A day's new events merged into the histories of an earlier day, as a full build would have them.

A history holds a user's last `window` events. New events at its times come after it: they lie in
files that follow those it was made from. What was cut off its beginning cannot matter, but for one
case: a full history and a new event at the very time of its oldest entry, yet unlike the entries of
that time. Whether it is an exact duplicate of one that was cut off cannot be told; such users are
counted as undecided.
"""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from r2ec.etl.chunks import Chunk, positions, repeat
from r2ec.etl.packing import first_of_equals
from r2ec.etl.windows import history_rows
from r2ec.schemas import HISTORIES

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
# The same, and the entries of histories, with the user's place among the users in hand.
_MERGED = pa.schema([pa.field("user", pa.int32()), *[EVENTS.field(n) for n in range(1, 5)]])
_LOG_ORDER = [(name, "ascending") for name in ("user", "time", "place")]


def event_rows(chunk: Chunk) -> pa.Table:
    """The chunk's events as rows of `EVENTS`."""
    users = chunk.user_id.take(chunk.per_event(positions(len(chunk.user_id))))
    columns = [users, chunk.item_index, chunk.rating, chunk.time, chunk.place]
    return pa.Table.from_arrays(columns, schema=EVENTS)


def merge_histories(
    known: pa.Table, events: pa.Table, *, until: int, window: int
) -> tuple[pa.Table, int]:
    """The histories of `known` with their users' events before a time.

    `known` has rows of `HISTORIES`, `events` rows of `EVENTS`, of other users too. Returns rows
    sorted by user, and the number of undecided users.
    """
    users = known["user_id"].combine_chunks()
    entries, new = _entries(known), _events_of(users, events)
    chunk = _chunk(pa.concat_tables([entries, new]), users)
    rows = pa.concat_tables([*history_rows(chunk, until=until, window=window)])
    return rows, _num_undecided(known, entries, new, window)


def _entries(histories: pa.Table) -> pa.Table:
    """The entries of histories as events; their places are negative, so they come before others."""
    lists = histories["history_item_index"].combine_chunks()
    items = lists.flatten()
    columns = [
        pc.list_parent_indices(lists).cast(pa.int32()),
        items,
        histories["history_rating"].combine_chunks().flatten(),
        histories["history_time"].combine_chunks().flatten().cast(pa.int64()),
        pc.subtract(positions(len(items)).cast(pa.int64()), pa.scalar(len(items))),
    ]
    return pa.Table.from_arrays(columns, schema=_MERGED)


def _events_of(users: pa.Array, events: pa.Table) -> pa.Table:
    user = pc.index_in(events["user_id"], value_set=users)
    columns = [user, *(events[name] for name in _MERGED.names[1:])]
    return pa.Table.from_arrays(columns, schema=_MERGED).filter(pc.is_valid(user))


def _chunk(events: pa.Table, users: pa.Array) -> Chunk:
    events = events.take(pc.sort_indices(events, _LOG_ORDER)).combine_chunks()
    columns = {name: events[name].combine_chunks() for name in _MERGED.names}
    chunk = Chunk.of_rows(user_id=columns.pop("user"), **columns)
    chunk = replace(chunk, user_id=users.take(chunk.user_id))
    is_first = first_of_equals(chunk)
    return chunk if is_first is None else chunk.where(is_first)


def _num_undecided(known: pa.Table, entries: pa.Table, new: pa.Table, window: int) -> int:
    lists = known["history_time"].combine_chunks()
    is_full = pc.greater_equal(pc.list_value_length(lists), window)
    oldest = pc.list_element(lists.filter(is_full), 0).cast(pa.int64())
    full = positions(len(lists)).filter(is_full)
    at_oldest = pa.table({"user": full, "time": oldest})
    met = _keys(new).join(at_oldest, ["user", "time"], join_type="inner")
    if not met.num_rows:
        return 0
    unheard = met.join(_keys(entries), met.column_names, join_type="left anti")
    return len(pc.unique(unheard["user"]))


def _keys(events: pa.Table) -> pa.Table:
    """What makes two events exact duplicates; a missing rating equals another one."""
    columns = [events[name] for name in ("user", "time", "item_index")]
    rating = pc.fill_null(events["rating"], float("-inf"))
    return pa.table([*columns, rating], names=["user", "time", "item_index", "rating"])


def history_subset(histories: pa.Table, is_wanted: pa.Array) -> pa.Table:
    """The wanted rows (a bool each) of `HISTORIES`; twice as quick as Arrow's filter of lists."""
    rows = histories.combine_chunks()
    lists = {name: rows[name].combine_chunks() for name in rows.column_names[1:4]}
    lengths = pc.list_value_length(lists["history_time"])
    ends = pc.cumulative_sum(lengths)
    entry_wanted = repeat(is_wanted, ends)
    kept_ends = pc.cumulative_sum(lengths.filter(is_wanted))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), kept_ends])
    columns = [
        rows["user_id"].filter(is_wanted),
        *[
            pa.ListArray.from_arrays(offsets, values.flatten().filter(entry_wanted))
            for values in lists.values()
        ],
        rows["history_hash"].filter(is_wanted),
    ]
    return pa.Table.from_arrays(columns, schema=HISTORIES.schema)
