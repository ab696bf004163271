"""Rows of a table by ascending user, however its files have them; memory does not grow with them.

Tasks of a build write files side by side, a later build adds users in a file of its own: the order
of the files is nobody's promise, and scoring needs one. Rows are sorted in memory up to a bound;
beyond it sorted runs lie in the folder for temporary files (TMPDIR) and are merged.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from r2ec import schemas
from r2ec.errors import R2ecError
from r2ec.infer.plan import end_of_day, shard_of
from r2ec.storage import Warehouse
from r2ec.tables import History, histories_of

BUFFER_BYTES = 256 * 1024 * 1024
RUN_ROWS = 8192


def iter_shard_histories(
    warehouse: Warehouse, date: str, shard: int, num_shards: int
) -> Iterator[History]:
    """The users of a shard by ascending id, of `histories/date=D`; a user may stand there twice.

    Raises `NotReadyError` when the date has no histories.
    """

    def of_shard(batch: pa.RecordBatch) -> pa.RecordBatch:
        users = batch["user_id"].to_pylist()
        return batch.filter(pa.array([shard_of(user, num_shards) == shard for user in users]))

    batches = warehouse.iter_batches(schemas.HISTORIES, batch_rows=RUN_ROWS, date=date)
    kept = batches if num_shards == 1 else map(of_shard, batches)
    for rows in sorted_by_user(kept):
        yield from histories_of(rows, end_of_day(date))


def sorted_by_user(
    batches: Iterable[pa.RecordBatch], *, buffer_bytes: int = BUFFER_BYTES
) -> Iterator[pa.Table]:
    """All rows by ascending `user_id`, in tables of some thousand rows.

    Memory is about three times `buffer_bytes`. Raises `R2ecError` where the temporary files find no
    room.
    """
    with _temporary_folder() as folder:
        runs: list[Path] = []
        held, held_bytes = list[pa.RecordBatch](), 0
        for batch in batches:
            held.append(batch)
            held_bytes += batch.nbytes
            if held_bytes >= buffer_bytes:
                runs.append(folder / f"run-{len(runs)}.arrow")
                _write_run(_sorted(held), runs[-1])
                held, held_bytes = [], 0
        last = _sorted(held) if held else None
        del held
        streams = [_read_run(run) for run in runs]
        if last is not None:
            streams.append(
                last.slice(first, RUN_ROWS) for first in range(0, last.num_rows, RUN_ROWS)
            )
        yield from streams[0] if len(streams) == 1 else _merged(streams)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder that goes when a reader gives up, too; `TemporaryDirectory` warns where the
    garbage collector finds it before the generator around it.
    """
    folder = tempfile.mkdtemp(prefix="r2ec-users-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sorted(batches: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches).sort_by("user_id")


def _write_run(rows: pa.Table, file: Path) -> None:
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    try:
        with (
            pa.OSFile(str(file), "wb") as sink,
            pa.ipc.new_file(sink, rows.schema, options=options) as writer,
        ):
            writer.write_table(rows, max_chunksize=RUN_ROWS)
    except OSError as error:
        raise R2ecError(
            f"sorting histories by user takes room in {file.parent.parent}"
            f" ({os.strerror(error.errno) if error.errno else error}): set TMPDIR to a folder with"
            " more, or use more shards"
        ) from error


def _read_run(file: Path) -> Iterator[pa.Table]:
    with pa.OSFile(str(file), "rb") as source:
        run = pa.ipc.open_file(source)
        for number in range(run.num_record_batches):
            yield pa.Table.from_batches([run.get_batch(number)])


def _merged(runs: list[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Sorted tables of sorted streams, the rows of several made one sorted stream."""
    heads = [_Head(run) for run in runs]
    while heads := [head for head in heads if head.fill()]:
        # No stream has more rows up to the least of the last users in hand.
        until = min(head.last_user for head in heads)
        ready = [head.take(until) for head in heads]
        yield pa.concat_tables(ready).sort_by("user_id")


class _Head:
    """The rows of a sorted stream that are in hand."""

    def __init__(self, stream: Iterator[pa.Table]) -> None:
        self._stream = stream
        self._rows: pa.Table | None = None

    def fill(self) -> bool:
        """Fetch rows where none are in hand; whether there are any."""
        while self._rows is None or not self._rows.num_rows:
            self._rows = next(self._stream, None)
            if self._rows is None:
                return False
        return True

    @property
    def last_user(self) -> str:
        assert self._rows is not None
        return str(self._rows["user_id"][-1].as_py())

    def take(self, until: str) -> pa.Table:
        """The rows up to and with a user; they are no longer in hand."""
        assert self._rows is not None
        count = pc.sum(pc.less_equal(self._rows["user_id"], until)).as_py() or 0
        taken, self._rows = self._rows.slice(0, count), self._rows.slice(count)
        return taken
