"""Partitions written aside and then put in place of those that were there.

A job writes below `_staging/etl/RUN`, which readers ignore. When all is written and audited, a
small file says which partitions are to be replaced; from then on the change is finished, by the
job or, if that was killed, by the next one. A job killed before it leaves the tables as they were.
"""

import json
import os
import time
import uuid
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pyspark.sql import DataFrame

from r2ec.errors import NotReadyError
from r2ec.lock import JobLock
from r2ec.row_counts import write_row_counts
from r2ec.storage import Warehouse

STAGING = ("_staging", "etl")
_READY = "ready.json"
_ABANDONED_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Staging:
    """The folder of one run of one job; with the job's lock it publishes only while it has it."""

    warehouse: Warehouse
    run: str
    lock: JobLock | None = None

    def uri(self, *parts: str) -> str:
        """Address of a staged table or partition, for Spark."""
        return self.warehouse.uri(*STAGING, self.run, *parts)

    def write(self, rows: DataFrame, *parts: str, partition_by: str | None = None) -> None:
        """Write a table (split by a column) or one partition of it."""
        writer = rows.write.mode("overwrite").option("compression", "zstd")
        writer = writer.option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
        if partition_by:
            writer = writer.partitionBy(partition_by)
        writer.parquet(self.uri(*parts))

    def num_rows(self, *parts: str) -> int:
        """Rows of a staged table or partition, from the files' footers."""
        filesystem = self.warehouse.filesystem
        files = self.warehouse.list_files(*STAGING, self.run, *parts)
        paths = [self.warehouse.path(file) for file in files]
        return sum(pq.read_metadata(path, filesystem=filesystem).num_rows for path in paths)

    def num_bytes(self, *parts: str) -> int:
        """Bytes of the staged files of a table, or of all."""
        filesystem = self.warehouse.filesystem
        files = self.warehouse.list_files(*STAGING, self.run, *parts)
        infos = filesystem.get_file_info([self.warehouse.path(file) for file in files])
        return sum(info.size for info in infos)

    def publish(self, partitions: list[tuple[str, ...]]) -> None:
        """Put the staged partitions in place; one of which nothing was staged disappears.

        Raises R2ecError when another run has taken the job's lock over: what it published stays.
        """
        _drop_leftovers(self.warehouse, *STAGING, self.run)
        for parts in partitions:
            if self._staged_files(parts):
                write_row_counts(self.warehouse, *STAGING, self.run, *parts)
        listed = [{"parts": parts, "files": self._staged_files(parts)} for parts in partitions]
        data = json.dumps({"partitions": listed}, indent=1).encode()
        if self.lock:
            self.lock.check()
        self.warehouse.replace_file(data, *STAGING, self.run, _READY)
        _finish(self.warehouse, self.run, self.lock)

    def _staged_files(self, parts: tuple[str, ...]) -> list[str]:
        paths = self.warehouse.list_files(*STAGING, self.run, *parts)
        return [path.rsplit("/", 1)[-1] for path in paths]

    def discard(self) -> None:
        """Remove what was staged; what had begun to be put in place is finished first."""
        if self.warehouse.exists(*STAGING, self.run, _READY):
            _finish(self.warehouse, self.run, self.lock)
        self.warehouse.remove_dir(*STAGING, self.run)


def open_staging(warehouse: Warehouse, job: str, lock: JobLock | None = None) -> Staging:
    """A new staging folder, after finishing what killed runs had begun to put in place.

    The job's lock must be held: a run of this job that is found is then a dead one. Raises
    R2ecError when the warehouse cannot be written to.
    """
    warehouse.check_writable()
    for run in _runs(warehouse):
        owner = run.rpartition("-")[0]
        if warehouse.exists(*STAGING, run, _READY):
            # A run of another job is left alone while it lives.
            with (
                suppress(NotReadyError),
                nullcontext() if owner == job else JobLock(warehouse, owner),
            ):
                _finish(warehouse, run)
        elif _age_seconds(warehouse, *STAGING, run) > _ABANDONED_SECONDS:
            warehouse.remove_dir(*STAGING, run)
    return Staging(warehouse, f"{job}-{uuid.uuid4().hex[:12]}", lock)


def _finish(warehouse: Warehouse, run: str, lock: JobLock | None = None) -> None:
    """Replace every partition listed; each step may be done already.

    A run that lost its lock on the way leaves the rest to the one that has it now.
    """
    listed = json.loads(warehouse.read_file(*STAGING, run, _READY))
    for partition in listed["partitions"]:
        if lock:
            lock.check()
        replace = _replace_objects if warehouse.is_s3 else _replace_folder
        replace(warehouse, run, tuple(partition["parts"]), partition["files"])
    warehouse.remove_dir(*STAGING, run)


def _replace_folder(
    warehouse: Warehouse, run: str, parts: tuple[str, ...], files: list[str]
) -> None:
    """Two renames: the old folder out of the way, the new one into its place."""
    staged, replaced = (*STAGING, run, *parts), (*STAGING, run, "replaced", *parts)
    new, place, old = (warehouse.path(*where) for where in (staged, parts, replaced))
    is_done = bool(files) and not os.path.isdir(new)
    if os.path.isdir(place) and not is_done:
        os.makedirs(os.path.dirname(old), exist_ok=True)
        os.rename(place, old)
    if os.path.isdir(new):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.rename(new, place)


def _replace_objects(
    warehouse: Warehouse, run: str, parts: tuple[str, ...], files: list[str]
) -> None:
    """Old objects out, new ones in, by name; an object store has no folders to rename."""
    for path in warehouse.list_files(*parts):
        if path.rsplit("/", 1)[-1] not in files:
            warehouse.remove_file(path)
    warehouse.move_dir((*STAGING, run, *parts), parts)


def _runs(warehouse: Warehouse) -> list[str]:
    selector = pafs.FileSelector(warehouse.path(*STAGING), allow_not_found=True)
    infos = warehouse.filesystem.get_file_info(selector)
    return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)


def _age_seconds(warehouse: Warehouse, *parts: str) -> float:
    selector = pafs.FileSelector(warehouse.path(*parts), recursive=True)
    times = [info.mtime.timestamp() for info in warehouse.filesystem.get_file_info(selector)]
    return time.time() - max(times, default=0.0)


def _drop_leftovers(warehouse: Warehouse, *parts: str) -> None:
    """Remove what readers need not: the `.name.crc` that Hadoop lays beside each local file, and
    the unfinished `.name.tmp` of tasks whose executor died."""
    if warehouse.is_s3:
        return
    for folder, _, names in os.walk(warehouse.path(*parts)):
        for name in names:
            if name.startswith(".") and name.endswith((".crc", ".tmp")):
                os.remove(os.path.join(folder, name))
