"""Batches of Arrow rows: in memory, or in a mapped file where they take too much of it."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import pyarrow as pa

from r2ec.logs import get_logger
from r2ec.memory import no_room

_LOG = get_logger(__name__)


def even_batches(batches: Iterable[pa.RecordBatch], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `batch_rows`, the last one of what is left."""
    held, num_rows = list[pa.RecordBatch](), 0
    for batch in batches:
        while batch.num_rows:
            some = batch.slice(0, batch_rows - num_rows)
            batch = batch.slice(some.num_rows)
            held.append(some)
            num_rows += some.num_rows
            if num_rows == batch_rows:
                yield pa.concat_batches(held)
                held, num_rows = [], 0
    if held:
        yield pa.concat_batches(held)


def held_batches(
    batches: Iterator[pa.RecordBatch], most_bytes: int, *, what: str
) -> list[pa.RecordBatch]:
    """All batches: in memory, or mapped where they would take more than `most_bytes` of it.

    A mapped file has no name and lies in the folder for temporary files (TMPDIR); the system keeps
    of it in memory what there is room for, and it goes with its last use. Raises `R2ecError`,
    which calls the batches `what`, where that folder has too little room.
    """
    held, num_bytes = list[pa.RecordBatch](), 0
    for batch in batches:
        held.append(batch)
        num_bytes += batch.nbytes
        if num_bytes > most_bytes:
            _LOG.info(
                f"{what} are kept in a file in {tempfile.gettempdir()}: they take more than the"
                f" {most_bytes:,} bytes of memory that they may"
            )
            return _mapped(batch.schema, chain(drained(held), batches), what)
    return held


def drained(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches in order, each let go as it is taken; the list is empty in the end."""
    batches.reverse()
    while batches:
        yield batches.pop()


def _mapped(
    schema: pa.Schema, batches: Iterator[pa.RecordBatch], what: str
) -> list[pa.RecordBatch]:
    def write(act: Callable[..., Any], *given: Any) -> Any:
        """Without what reading the batches raises."""
        try:
            return act(*given)
        except OSError as error:
            raise no_room(what, error) from error

    with tempfile.NamedTemporaryFile(prefix="r2ec-batches-") as file:
        sink = pa.OSFile(file.name, "wb")
        writer = write(pa.ipc.new_file, sink, schema)
        for batch in batches:
            write(writer.write_batch, batch)
        write(writer.close)
        sink.close()
        rows = pa.ipc.open_file(pa.memory_map(file.name))
        return [rows.get_batch(number) for number in range(rows.num_record_batches)]
