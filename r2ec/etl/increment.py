"""One more day of histories from the last one and the events since: when it can be done, and how.

What the day did not touch is neither read (files of the log) nor computed anew (users). The result
equals a full build row for row; where that cannot be promised, `plan_increment` says why, and the
job builds in full.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from r2ec.etl.arrow_map import map_in_arrow
from r2ec.etl.chunks import read_chunks
from r2ec.etl.files import InputFile
from r2ec.etl.history_state import HistoryState, LogFile, load_state
from r2ec.etl.rows import POSITION_BITS
from r2ec.etl.sequences import end_of_day
from r2ec.row_counts import check_folder
from r2ec.storage import Warehouse


@dataclass(frozen=True, kw_only=True, slots=True)
class Increment:
    """From which day's histories to start, and which files hold the events since its end."""

    base: date
    num_base_rows: int
    state: HistoryState
    files: list[InputFile]

    @property
    def since(self) -> int:
        """Microseconds of the first moment after the base: earlier events are in it already."""
        return end_of_day(self.base)

    def known_files(self) -> set[int]:
        """Numbers of the files of which the base has the events before its end."""
        known = {file.uri for file in self.state.files}
        return {file.number for file in self.files if file.uri in known}


def plan_increment(
    warehouse: Warehouse,
    day: date,
    files: list[InputFile],
    *,
    options: str,
    window: int,
    num_catalog_items: int,
) -> Increment | str:
    """The increment that makes the histories of `day` with these settings, or why there is none."""
    earlier = [d for d in warehouse.partitions("histories", "date") if d < day.isoformat()]
    if not earlier:
        return "there are no histories of an earlier day"
    state = load_state(warehouse, earlier[-1])
    if state is None:
        return f"what the histories of {earlier[-1]} were made from is not known"
    if (state.options, state.window) != (options, window):
        return f"the histories of {earlier[-1]} were made with other options"
    wrong, num_base_rows = check_folder(warehouse, "histories", f"date={earlier[-1]}")
    if wrong:
        return f"the histories of {earlier[-1]} are not as they were written: {wrong[0]}"
    if state.num_items > num_catalog_items:
        return f"the histories of {earlier[-1]} were made with a later catalog"
    known = {file.uri: file for file in state.files}
    changed = [f.uri for f in files if f.uri in known and known[f.uri].num_bytes != f.num_bytes]
    if changed:
        return f"{changed[0]} has changed"
    new = [file for file in files if file.uri not in known]
    if new and known and min(file.uri for file in new) < max(known):
        # Events of one time stand in the order of the files' names.
        return f"{min(file.uri for file in new)} comes before files that were read"
    base = date.fromisoformat(earlier[-1])
    end = end_of_day(base)
    again = [f for f in files if f.uri in known and (known[f.uri].last_time or 0) >= end]
    chosen = sorted([*again, *new], key=lambda file: file.number)
    return Increment(base=base, num_base_rows=num_base_rows, state=state, files=chosen)


def new_items_are_older(catalog: DataFrame, increment: Increment) -> bool:
    """May an item that is new in the catalog have events that the base left out as unknown?"""
    if not increment.state.num_unknown:
        return False
    is_new = F.col("item_index") >= increment.state.num_items
    first = F.unix_micros("first_seen")
    older = catalog.where(is_new & (first.isNull() | (first < increment.since)))
    return older.limit(1).count() > 0


def merged_state(increment: Increment, read: HistoryState) -> HistoryState:
    """The state after the increment: the files of the base and those read now."""
    files = {file.uri: file for file in (*increment.state.files, *read.files)}
    num_unknown = increment.state.num_unknown + read.num_unknown
    by_name = tuple(files[uri] for uri in sorted(files))
    return replace(read, files=by_name, num_unknown=num_unknown)


def last_times(packed: DataFrame, files: list[InputFile]) -> list[LogFile]:
    """The files with the time of their last event."""

    def latest(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for chunk in read_chunks(batches):
            number = pc.shift_right(chunk.place, pa.scalar(POSITION_BITS, pa.int64()))
            rows = pa.table({"number": number, "time": chunk.time})
            found = rows.group_by("number").aggregate([("time", "max")])
            yield from found.rename_columns(["number", "time"]).to_batches()

    chunks = packed.select("num_events", "item_index", "time", "place")
    found = map_in_arrow(chunks, latest, "number bigint, time bigint")
    by_file = found.groupBy("number").agg(F.max("time").alias("time")).collect()
    times = {row["number"]: row["time"] for row in by_file}
    return [
        LogFile(uri=file.uri, num_bytes=file.num_bytes, last_time=times.get(file.number))
        for file in files
    ]
