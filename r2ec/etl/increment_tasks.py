"""The histories of a day from those of an earlier one and the events since, by tasks on files."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from r2ec.etl.arrow_map import map_in_arrow
from r2ec.etl.chunks import COLUMNS, read_chunks
from r2ec.etl.history_merge import EVENTS, event_rows, history_subset, merge_histories
from r2ec.etl.parts import FILE_BYTES, PartWriter, task_number, write_parts
from r2ec.etl.sequences import end_of_day
from r2ec.etl.staging import STAGING, Staging
from r2ec.etl.windows import history_rows
from r2ec.schemas import HISTORIES, Table
from r2ec.storage import Warehouse

BATCH_ROWS = 65_536
_TASKS = "task int, paths array<string>"
_DONE = "num_rows bigint, num_undecided bigint"
_DONE_SCHEMA = pa.schema([("num_rows", pa.int64()), ("num_undecided", pa.int64())])
_MET = pa.schema([pa.field("user_id", pa.string(), nullable=False)])
_EVENTS = Table(name="events", grain="one row per event", schema=EVENTS, partition_by=())
_Item = TypeVar("_Item")
# What the tasks leave beside the histories: the new events; of those whom they change, the ids of
# the users whom the base has; and the rows that are not as in the base, which alone are audited.
CHANGED = ("increment", "changed")
_EVENTS_FOLDER, _MET_FOLDER = ("increment", "events"), ("increment", "met")


class UndecidedError(Exception):
    """An event meets the oldest entry of a full history: only the whole log can tell its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenRows:
    """Rows of the new day: of users whom the base has, as many as it has; and of new users."""

    num_known: int
    num_new: int


def write_increment(
    spark: SparkSession, packed: DataFrame, staging: Staging, *, base: date, day: date, window: int
) -> WrittenRows:
    """Stage the histories of `day`: those of `base` with the events in `packed`.

    The rows that are not as in the base lie below `CHANGED` of the staging folder as well. Raises
    UndecidedError.
    """
    warehouse = staging.warehouse
    groups = _grouped(warehouse, base)
    merge = _Merge(
        root=warehouse.root if warehouse.is_s3 else warehouse.path(),
        staged=(*STAGING, staging.run),
        date=day,
        window=window,
        num_groups=len(groups),
    )
    write_parts(
        packed,
        lambda chunk: iter([event_rows(chunk)]),
        _EVENTS,
        warehouse,
        *merge.events,
        num_tasks=1,
    )
    tasks = spark.createDataFrame(list(enumerate(groups)), _TASKS)
    by_group = tasks.repartition(min(len(groups), 1000))
    done = map_in_arrow(by_group, merge.old_users, _DONE).collect()
    if any(row["num_undecided"] for row in done):
        raise UndecidedError
    added = map_in_arrow(packed.select(*COLUMNS).coalesce(1), merge.new_users, _DONE).collect()
    return WrittenRows(
        num_known=sum(row["num_rows"] for row in done),
        num_new=sum(row["num_rows"] for row in added),
    )


def _grouped(warehouse: Warehouse, base: date) -> list[list[str]]:
    """The base's files, small ones together, so that their number does not grow from day to day."""
    groups: list[list[str]] = []
    num_filled = FILE_BYTES
    for path in warehouse.list_files("histories", f"date={base}"):
        num_bytes = warehouse.filesystem.get_file_info(warehouse.path(path)).size
        if num_filled + num_bytes > FILE_BYTES:
            groups.append([])
            num_filled = 0
        groups[-1].append(path)
        num_filled += num_bytes
    return groups


@dataclass(frozen=True, kw_only=True, slots=True)
class _Merge:
    """What the tasks share: the warehouse, the staging folder, the day, the window."""

    root: str
    staged: tuple[str, ...]
    date: date
    window: int
    num_groups: int

    @property
    def events(self) -> tuple[str, ...]:
        """The folder of the new events."""
        return (*self.staged, *_EVENTS_FOLDER)

    @property
    def met(self) -> tuple[str, ...]:
        """The folder of the users who have new events and a history in the base."""
        return (*self.staged, *_MET_FOLDER)

    def old_users(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Write files of the base anew, with the events of their users."""
        for batch in batches:
            for task in batch.to_pylist():
                yield self._rewrite(task["task"], task["paths"])

    def new_users(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Write the histories of the users whom the base has not."""
        known = self._read(self.met, _MET)["user_id"]
        until, task = end_of_day(self.date), self.num_groups + task_number()
        with self._histories(task) as part, self._changed(task) as changed:
            for chunk in read_chunks(batches):
                is_new = pc.invert(pc.is_in(chunk.user_id, value_set=known))
                fresh = chunk.where(chunk.per_event(is_new))
                for rows in history_rows(fresh, until=until, window=self.window):
                    part.add(rows)
                    changed.add(rows)
        yield _done(part.num_rows, 0)

    def _rewrite(self, group: int, paths: list[str]) -> pa.RecordBatch:
        """Rows of users without new events as they are, then the others.

        Reading and writing, which are most of it, go on side by side in threads: with two cores a
        single file takes half as long. Three batches are held at a time.
        """
        events = self._read(self.events, EVENTS)
        users = pc.unique(events["user_id"])
        num_undecided = 0
        with (
            self._histories(group) as part,
            self._changed(group) as changed,
            self._writer(self.met, _MET, group) as met,
            ThreadPoolExecutor(max_workers=1) as beside,
        ):
            writing = beside.submit(part.add, HISTORIES.schema.empty_table())
            for stay, known in _divided(ahead(_batches(Warehouse(self.root), paths)), users):
                writing.result()
                writing = beside.submit(part.add, stay)
                if not known.num_rows:
                    continue
                rows, undecided = merge_histories(
                    known, events, until=end_of_day(self.date), window=self.window
                )
                num_undecided += undecided
                met.add(known.select(["user_id"]))
                changed.add(rows)
                writing.result()
                writing = beside.submit(part.add, rows)
            writing.result()
        return _done(part.num_rows, num_undecided)

    def _read(self, folder: tuple[str, ...], schema: pa.Schema) -> pa.Table:
        warehouse = Warehouse(self.root)
        paths = [warehouse.path(path) for path in warehouse.list_files(*folder)]
        tables = [pq.read_table(path, filesystem=warehouse.filesystem) for path in paths]
        return pa.concat_tables([schema.empty_table(), *tables])

    def _histories(self, task: int) -> PartWriter:
        folder = (*self.staged, "histories", f"date={self.date}")
        return self._writer(folder, HISTORIES.schema, task)

    def _changed(self, task: int) -> PartWriter:
        folder = (*self.staged, *CHANGED, f"date={self.date}")
        return self._writer(folder, HISTORIES.schema, task)

    def _writer(self, folder: tuple[str, ...], schema: pa.Schema, task: int) -> PartWriter:
        return PartWriter(Warehouse(self.root), folder, schema, task)


def ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The items, each made in a thread while the one before it is worked on."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _batches(warehouse: Warehouse, paths: list[str]) -> Iterator[pa.Table]:
    for path in paths:
        with warehouse.filesystem.open_input_file(warehouse.path(path)) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=BATCH_ROWS):
                yield pa.Table.from_batches([batch]).cast(HISTORIES.schema)


def _divided(
    batches: Iterator[pa.Table], users: pa.ChunkedArray
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Of each batch the rows of users who have no new event; beside them those who have.

    The latter are gathered until there are enough to be worth the work on arrays.
    """
    gathered = [HISTORIES.schema.empty_table()]
    for rows in batches:
        is_met = pc.is_in(rows["user_id"], value_set=users).combine_chunks()
        gathered.append(history_subset(rows, is_met))
        known = HISTORIES.schema.empty_table()
        if sum(table.num_rows for table in gathered) >= BATCH_ROWS:
            known, gathered = pa.concat_tables(gathered), [known]
        yield history_subset(rows, pc.invert(is_met)), known
    yield HISTORIES.schema.empty_table(), pa.concat_tables(gathered)


def _done(num_rows: int, num_undecided: int) -> pa.RecordBatch:
    row = {"num_rows": num_rows, "num_undecided": num_undecided}
    return pa.RecordBatch.from_pylist([row], schema=_DONE_SCHEMA)
