"""Parquet files written by tasks: chunks in, files of a staged table out.

A task writes with Arrow rather than through Spark's rows: lists of 20 values are copied once. A
file is written under a hidden name of its own and renamed when it is whole. The name it gets then
follows from the task's place alone, and so do its rows: a task that runs twice does no harm.
"""

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import DataFrame

from r2ec.etl.arrow_map import map_in_arrow
from r2ec.etl.chunks import COLUMNS, Chunk, read_chunks
from r2ec.schemas import Table
from r2ec.storage import Warehouse

FILE_BYTES, LARGEST_FILE_BYTES = 256 * 1024 * 1024, 512 * 1024 * 1024
ROW_GROUP_ROWS = 131_072

MakeRows = Callable[[Chunk], Iterator[pa.Table]]


def write_parts(
    packed: DataFrame,
    make_rows: MakeRows,
    table: Table,
    warehouse: Warehouse,
    *folder: str,
    num_tasks: int,
) -> int:
    """Write the rows of every chunk below a folder of the warehouse; returns their number."""
    root = warehouse.root if warehouse.is_s3 else warehouse.path()
    schema = table.schema

    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with PartWriter(Warehouse(root), folder, schema, task_number()) as part:
            for chunk in read_chunks(batches):
                for rows in make_rows(chunk):
                    part.add(rows)
        yield pa.RecordBatch.from_pydict({"num_rows": [part.num_rows]})

    chunks = packed.select(*COLUMNS).coalesce(num_tasks)
    written = map_in_arrow(chunks, write, "num_rows bigint").collect()
    return sum(row["num_rows"] for row in written)


def task_number() -> int:
    """The number of the partition that this task works on."""
    context = TaskContext.get()
    assert context is not None
    return context.partitionId()


class PartWriter:
    """The files of one task: a new one is begun when the last has grown large.

    Used as a context: leaving it finishes the last file, or removes it after an error. `num_rows`
    counts all rows.
    """

    def __init__(
        self, warehouse: Warehouse, folder: tuple[str, ...], schema: pa.Schema, task: int
    ) -> None:
        self._warehouse = warehouse
        self._folder = folder
        self._schema = schema
        self._task = task
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.Table] = []
        self._name = self._hidden = ""
        self._sink: pa.NativeFile | None = None
        self._num_files = 0
        self.num_rows = 0

    def add(self, rows: pa.Table) -> None:
        """Append rows; they are written when a row group is full."""
        if not rows.num_rows:
            return
        self._pending.append(rows)
        if sum(table.num_rows for table in self._pending) >= ROW_GROUP_ROWS:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
            self._finish_file()
        elif self._sink is not None:
            self._sink.close()
            self._warehouse.remove_file(*self._folder, self._hidden)

    def _flush(self) -> None:
        if not self._pending:
            return
        rows = pa.concat_tables(self._pending)
        self._pending = []
        if self._writer is None:
            self._open_file()
        assert self._writer is not None
        assert self._sink is not None
        self._writer.write_table(rows, row_group_size=rows.num_rows)
        self.num_rows += rows.num_rows
        if self._sink.tell() >= LARGEST_FILE_BYTES - FILE_BYTES // 2:
            self._finish_file()

    def _open_file(self) -> None:
        self._name = f"part-{self._task:05d}-{self._num_files:03d}.parquet"
        self._hidden = f".{self._name}.{uuid.uuid4().hex}.tmp"
        if self._warehouse.is_s3:
            self._hidden = self._name  # an object appears when it is whole
        path = self._warehouse.path(*self._folder, self._hidden)
        if not self._warehouse.is_s3:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        self._sink = self._warehouse.filesystem.open_output_stream(path)
        # A history repeats the one before it but for two entries, side by side: zstd finds that,
        # and a dictionary in between would hide it.
        self._writer = pq.ParquetWriter(
            self._sink, self._schema, compression="zstd", use_dictionary=["user_id"]
        )

    def _finish_file(self) -> None:
        if self._writer is None or self._sink is None:
            return
        self._writer.close()
        self._sink.close()
        self._writer, self._sink = None, None
        if not self._warehouse.is_s3:
            old, new = (self._warehouse.path(*self._folder, n) for n in (self._hidden, self._name))
            os.replace(old, new)
        self._num_files += 1
