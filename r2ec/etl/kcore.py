"""The k-core of the log: only users and items with enough events among themselves.

The items only ever shrink. The driver holds each item's number of events (8 bytes an item) and a
bit for each item that is left; a round sends the bits out and gets back, per item, how many events
went with the users that became too short. The log itself stays where it is.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from r2ec.etl.arrow_map import ArrowTask, map_in_arrow
from r2ec.etl.chunks import Chunk, read_chunks

_COUNTS = "item_index bigint, num_events bigint"
_ARROW_COUNTS = pa.schema([("item_index", pa.int64()), ("num_events", pa.int64())])
# Counts from all tasks that the driver adds up itself; more are added up by a shuffle of counts.
_DRIVER_COUNTS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Core:
    """The users with at least `min_user_events` events of items whose bit is set.

    `item_bits` has a bit per `item_index`, lowest first; None stands for all items.
    """

    min_user_events: int
    item_bits: bytes | None = None

    def has_event(self, chunk: Chunk) -> pa.Array:
        """For each event of the chunk: is it in the core?"""
        if self.item_bits is None:
            has_item = pa.repeat(True, chunk.size)
        else:
            has_item = pc.take(_bools(self.item_bits), chunk.item_index)
        if self.min_user_events <= 1:
            return has_item
        enough = pc.greater_equal(chunk.count(has_item), self.min_user_events)
        return pc.and_(has_item, chunk.per_event(enough))

    def of(self, chunk: Chunk) -> Chunk:
        """The part of the chunk that is in the core."""
        if self.item_bits is None and self.min_user_events <= 1:
            return chunk
        return chunk.where(self.has_event(chunk))


def k_core(
    packed: DataFrame, num_items: int, *, min_user_events: int, min_item_events: int
) -> tuple[Core, int]:
    """The largest set of events in which every user and item has at least that many.

    `packed` has the log's chunks, whose items are below `num_items`. Returns the core and its
    number of items that have an event.
    """
    core = Core(min_user_events=min_user_events)
    counts = array("q", bytes(8 * num_items))
    for item, num_events in _collect(packed, _events_of(core), is_large=True):
        counts[item] = num_events
    if min_item_events <= 1:
        return core, sum(1 for count in counts if count)
    bits = bytearray(b"\xff") * (-(-num_items // 8))
    lost = [item for item, count in enumerate(counts) if count < min_item_events]
    while lost:
        # An event goes with its item, or with a user that was left with too few by such a loss.
        most = sum(counts[item] for item in lost) * min_user_events
        for item in lost:
            bits[item >> 3] &= ~(1 << (item & 7))
            counts[item] = 0
        before, core = core, Core(min_user_events=min_user_events, item_bits=bytes(bits))
        if not most:
            break
        lost = []
        for item, num_events in _collect(
            packed, _lost_events(before, core), is_large=most > _DRIVER_COUNTS
        ):
            if counts[item] >= min_item_events > counts[item] - num_events:
                lost.append(item)
            counts[item] -= num_events
    return core, sum(1 for count in counts if count)


def _events_of(core: Core) -> ArrowTask:
    return _counting(core.has_event)


def _lost_events(before: Core, after: Core) -> ArrowTask:
    """Counts the events that were in the core and are not, of items that still are."""
    assert after.item_bits is not None
    item_bits = after.item_bits

    def is_lost(chunk: Chunk) -> pa.Array:
        has_item = pc.take(_bools(item_bits), chunk.item_index)
        gone = pc.and_not(before.has_event(chunk), after.has_event(chunk))
        return pc.and_(has_item, gone)

    return _counting(is_lost)


def _counting(is_counted: Callable[[Chunk], pa.Array]) -> ArrowTask:
    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found = [
            pc.value_counts(chunk.item_index.filter(is_counted(chunk))).flatten()
            for chunk in read_chunks(batches)
        ]
        tables = [pa.Table.from_arrays(arrays, schema=_ARROW_COUNTS) for arrays in found]
        if tables:
            by_item = pa.concat_tables(tables).group_by("item_index")
            total = by_item.aggregate([("num_events", "sum")]).rename_columns(_ARROW_COUNTS.names)
            yield from total.to_batches()

    return count


def _collect(packed: DataFrame, task: ArrowTask, *, is_large: bool) -> Iterator[tuple[int, int]]:
    """Items and numbers of events; an item stands there once if the counts were large."""
    counts = map_in_arrow(packed.select("num_events", "item_index"), task, _COUNTS)
    if is_large:
        counts = counts.groupBy("item_index").agg(F.sum("num_events").alias("num_events"))
    for batch in counts.toArrow().to_batches():
        yield from zip(
            batch["item_index"].to_pylist(), batch["num_events"].to_pylist(), strict=True
        )


def _bools(bits: bytes) -> pa.Array:
    return pa.Array.from_buffers(pa.bool_(), 8 * len(bits), [None, pa.py_buffer(bits)])
