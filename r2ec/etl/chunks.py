"""A chunk of the log: whole users, each one's events in the order of the log, as Arrow arrays.

What the jobs compute per user (duplicates, k-core, windows) is array arithmetic on chunks:
executors have pyarrow and nothing else. A chunk travels through Spark as one row of binary columns,
so that a pass over the log reads only the arrays it needs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

# Events of a chunk, unless one user alone has more: a task holds one chunk at a time.
CHUNK_EVENTS = 262_144

_TYPES = {
    "user_id": pa.string(),
    "num_events": pa.int32(),
    "item_index": pa.int64(),
    "time": pa.int64(),
    "rating": pa.float32(),
    "place": pa.int64(),
}
COLUMNS = tuple(_TYPES)
BINARY_COLUMNS = ", ".join(f"{name} binary" for name in COLUMNS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Users and their events; the events of a user lie together, users in the chunk's order.

    `user_id` and `num_events` (above 0) have one entry a user; the others one an event: `time` in
    microseconds, `place` in the input, `rating` null where the log has none.
    """

    user_id: pa.Array
    num_events: pa.Array
    item_index: pa.Array
    time: pa.Array
    rating: pa.Array
    place: pa.Array

    @classmethod
    def of_rows(cls, *, user_id: pa.Array, **columns: pa.Array) -> "Chunk":
        """The chunk of events that have their user beside them, each user's rows together."""
        runs = pc.run_end_encode(user_id)
        num_events = pc.subtract(runs.run_ends, shifted(runs.run_ends, 0))
        return cls(user_id=runs.values, num_events=num_events, **columns)

    @property
    def size(self) -> int:
        """Number of events."""
        return len(self.item_index)

    @property
    def ends(self) -> pa.Array:
        """For each user, int32: the position after their last event."""
        return pc.cumulative_sum(self.num_events)

    @property
    def starts(self) -> pa.Array:
        """For each user, int32: the position of their first event."""
        return pc.subtract(self.ends, self.num_events)

    def per_event(self, per_user: pa.Array) -> pa.Array:
        """An array with one entry a user, repeated for each of their events."""
        return repeat(per_user, self.ends)

    def count(self, is_wanted: pa.Array) -> pa.Array:
        """For each user, int32: how many of their events are wanted (a bool per event, no null)."""
        running = pc.cumulative_sum(is_wanted.cast(pa.int32()))
        at_end = pc.take(running, pc.subtract(self.ends, pa.scalar(1, pa.int32())))
        return pc.subtract(at_end, shifted(at_end, 0))

    def where(self, is_wanted: pa.Array) -> "Chunk":
        """The chunk of the wanted events (a bool per event) and of the users that have any."""
        counts = self.count(is_wanted)
        has_any = pc.greater(counts, pa.scalar(0, pa.int32()))
        return Chunk(
            user_id=self.user_id.filter(has_any),
            num_events=counts.filter(has_any),
            item_index=self.item_index.filter(is_wanted),
            time=self.time.filter(is_wanted),
            rating=self.rating.filter(is_wanted),
            place=self.place.filter(is_wanted),
        )


def to_row(chunk: Chunk) -> dict[str, bytes]:
    """The chunk's arrays as bytes, by column."""
    return {name: encode_array(getattr(chunk, name)) for name in COLUMNS}


def read_chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[Chunk]:
    """The chunks of rows written by `to_row`; arrays that were not selected are all null."""
    for batch in batches:
        for row in range(batch.num_rows):
            arrays = {
                name: decode_array(batch.column(name)[row].as_buffer())
                for name in COLUMNS
                if name in batch.schema.names
            }
            yield _with_absent(arrays)


def encode_array(array: pa.Array) -> bytes:
    """An array as an Arrow stream of one column."""
    return encode_table(pa.record_batch([array], names=["values"]))


def decode_array(data: pa.Buffer) -> pa.Array:
    """The array of `encode_array`; it lies in `data`, nothing is copied."""
    batch: pa.RecordBatch = pa.ipc.open_stream(data).read_next_batch()
    return batch.column(0)


def encode_table(batch: pa.RecordBatch) -> bytes:
    """A record batch as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def repeat(values: pa.Array, ends: pa.Array) -> pa.Array:
    """`values[i]` at each position from `ends[i - 1]` to before `ends[i]` (int32, growing)."""
    if len(ends) == 0:
        return values
    return pc.run_end_decode(pa.RunEndEncodedArray.from_arrays(ends, values))


def positions(count: int) -> pa.Array:
    """0, 1, … as int32."""
    ones = pa.repeat(pa.scalar(1, pa.int32()), count)
    return pc.subtract(pc.cumulative_sum(ones), pa.scalar(1, pa.int32()))


def shifted(values: pa.Array, first: object) -> pa.Array:
    """The array moved on by one: `first`, then all values but the last."""
    head = pa.array([first], values.type)
    return pa.concat_arrays([head, values.slice(0, max(0, len(values) - 1))]).slice(0, len(values))


def _with_absent(arrays: dict[str, pa.Array]) -> Chunk:
    num_users, num_events = len(arrays["num_events"]), len(arrays["item_index"])
    for name, kind in _TYPES.items():
        if name not in arrays:
            arrays[name] = pa.nulls(num_users if name == "user_id" else num_events, kind)
    return Chunk(**arrays)
