"""The warehouse: one root, local or `s3://`, under which every table lies in Parquet.

Readers ignore every file with a path component that starts with `_` or `.`, so what is staged or
half written is never seen. A file appears whole or not at all: it is written under a temporary
name in its own folder, synced and renamed; on S3 an object appears when its upload completes.
Folders have no atomic move on S3, so nothing here relies on one.
"""

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from r2ec import schemas
from r2ec.errors import NotReadyError, R2ecError, UsageError

BUILT_BY = {
    "catalog": "spark-submit jobs/build_catalog.py",
    "sequences": "spark-submit jobs/build_sequences.py",
    "histories": "spark-submit jobs/build_sequences.py with --date",
    "quarantine": "spark-submit jobs/build_catalog.py or jobs/build_sequences.py",
    "item_embeddings": "r2ec-cli embed",
    "recommendations": "r2ec-cli score and r2ec-cli publish",
    "reasoning": "r2ec-cli score and r2ec-cli publish",
    "runs": "r2ec-cli publish",
    "metrics": "r2ec-cli evaluate",
}

_PARTITION_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_S3_THREADS = 16
_TORN_READS = 20
_PARQUET_END = b"PAR1"


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePart:
    """One written file: path relative to the root, rows, bytes and SHA-256 of its bytes."""

    path: str
    num_rows: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Warehouse:
    """All tables under `root`: a local path or `s3://bucket/prefix` (`s3a://` is taken as such).

    The S3 endpoint and region come from `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `AWS_REGION`
    and `AWS_DEFAULT_REGION`, the keys from where the AWS SDK looks for them.
    """

    root: str

    def __post_init__(self) -> None:
        scheme = urlsplit(self.root).scheme if "://" in self.root else ""
        if not self.root:
            raise UsageError("the warehouse is an empty path: give --warehouse or R2EC_WAREHOUSE")
        if scheme not in ("", "file", "s3", "s3a"):
            raise UsageError(
                f"warehouse {self.root!r}: unknown scheme {scheme!r}; give a path or s3://bucket/…"
            )
        if self.is_s3 and not urlsplit(self.root).netloc:
            raise UsageError(f"warehouse {self.root!r} names no bucket; give s3://bucket/prefix")

    @property
    def is_s3(self) -> bool:
        """Whether the root is an object store address."""
        return self.root.startswith(("s3://", "s3a://"))

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The filesystem that the paths of `path` belong to."""
        return _s3_filesystem(*_s3_settings()) if self.is_s3 else pafs.LocalFileSystem()

    def path(self, *parts: str) -> str:
        """Path of `parts` on `filesystem`; absolute locally, `bucket/key` on S3."""
        if self.is_s3:
            base = self.root.split("://", 1)[1].rstrip("/")
        else:
            base = os.path.abspath(self.root.removeprefix("file://"))
        return "/".join([base, *(_safe_part(part) for part in parts)])

    def uri(self, *parts: str) -> str:
        """Address of `parts` for Spark: `s3a://…` or an absolute path."""
        return f"s3a://{self.path(*parts)}" if self.is_s3 else self.path(*parts)

    def duckdb_uri(self, *parts: str) -> str:
        """Address of `parts` for DuckDB: `s3://…` or an absolute path."""
        return f"s3://{self.path(*parts)}" if self.is_s3 else self.path(*parts)

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        return self._there(self.path(*parts))

    def modified_at(self, *parts: str) -> float | None:
        """When a file was written, in seconds since 1970; None when it is not there."""
        nanoseconds = self.filesystem.get_file_info(self.path(*parts)).mtime_ns
        return None if nanoseconds is None else nanoseconds / 1e9

    def list_files(self, *parts: str, suffix: str = ".parquet") -> list[str]:
        """Sorted paths, relative to the root, of the files that readers may see under `parts`.

        Components below `parts` that start with `_` or `.` are ignored; `parts` may be staged.
        """
        top = "/".join(parts)
        below = sorted(name for name in self._walk(*parts) if name.endswith(suffix))
        visible = [name for name in below if not name.startswith(("_", "."))]
        visible = [name for name in visible if "/_" not in name and "/." not in name]
        return [f"{top}/{name}" if top else name for name in visible]

    def list_folders(self, *parts: str) -> list[str]:
        """Sorted names of the folders right under `parts` that readers may see."""
        top = self.path(*parts)
        selector = pafs.FileSelector(top, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        names = (info.base_name for info in found if info.type == pafs.FileType.Directory)
        return sorted(name for name in names if not name.startswith(("_", ".")))

    def partitions(self, table: str, column: str, **partition: str) -> list[str]:
        """Sorted values of a partition column that have files, within the given partition.

        `partitions("catalog", "version")`, `partitions("runs", "date")`,
        `partitions("recommendations", "run_id", date="2024-01-01")`.
        """
        parts = _partition_parts(schemas.TABLES[table], partition)
        prefix = f"{column}="
        names = (
            component
            for path in self.list_files(*parts)
            for component in path.split("/")[len(parts) : -1]
        )
        return sorted({name.removeprefix(prefix) for name in names if name.startswith(prefix)})

    def read_table(
        self,
        table: schemas.Table,
        *,
        columns: list[str] | None = None,
        filter: pc.Expression | None = None,
        **partition: str,
    ) -> pa.Table:
        """Read a table, or the partition given by its leading partition columns.

        Rows come in the order of the file names and of the rows in each file, cast to the table's
        schema. Raises `NotReadyError` when there is no such file, or it is damaged.
        """
        files = self._require_files(table, partition)
        paths = [self.path(file) for file in files]
        names = columns or table.schema.names
        place = paths[0] if len(paths) == 1 else os.path.dirname(paths[0])
        with self._readable(table, place):
            if table is schemas.RUNS:
                pointers = [*self.read_pointers(files), schemas.RUNS.schema.empty_table()]
                dataset = ds.dataset(pa.concat_tables(pointers, promote_options="default"))
            else:
                dataset = ds.dataset(paths, format="parquet", filesystem=self.filesystem)
            _require_columns(table, dataset.schema, paths[0])
            rows = dataset.to_table(columns=names, filter=filter)
        return _cast(table, rows, _readable_schema(table, dataset.schema, names), place)

    def iter_batches(
        self,
        table: schemas.Table,
        *,
        batch_rows: int,
        columns: list[str] | None = None,
        **partition: str,
    ) -> Iterator[pa.RecordBatch]:
        """Read a partition as batches of at most `batch_rows` rows, in the order of `read_table`.

        Memory is bounded by one row group. Raises `NotReadyError` when there is no such file, or it
        is damaged, `UsageError` for columns of other types than the table's.
        """
        names = columns or table.schema.names
        for file in self._require_files(table, partition):
            with (
                self.filesystem.open_input_file(self.path(file)) as stream,
                self._readable(table, self.path(file)),
            ):
                parquet = pq.ParquetFile(stream)
                _require_columns(table, parquet.schema_arrow, self.path(file))
                schema = _readable_schema(table, parquet.schema_arrow, names)
                for batch in parquet.iter_batches(batch_size=batch_rows, columns=names):
                    yield _cast(table, batch.select(names), schema, self.path(file))

    def all_files(self, *parts: str) -> list[str]:
        """Sorted paths, relative to the root, of all files under `parts`: those that readers may
        not see too."""
        top = "/".join(parts)
        return sorted(f"{top}/{name}" if top else name for name in self._walk(*parts))

    def subfolders(self, *parts: str) -> list[str]:
        """Sorted names of the folders in a folder, which need not be there."""
        selector = pafs.FileSelector(self.path(*parts), allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def count_rows(self, *parts: str) -> int:
        """Rows of one Parquet file, from its footer."""
        with self.filesystem.open_input_file(self.path(*parts)) as stream:
            return int(pq.ParquetFile(stream).metadata.num_rows)

    def read_file(self, *parts: str) -> bytes:
        """All bytes of one file; `FileNotFoundError` when it is not there."""
        with self.filesystem.open_input_stream(self.path(*parts)) as stream:
            return bytes(stream.read())

    def replace_file(self, data: bytes, *parts: str) -> None:
        """Write a file that appears whole or not at all, in place of the one that was there.

        Locally: temporary name in the same folder, sync, rename. S3: one upload. `OSError` names
        the path (disk full, no permission).
        """
        path = self.path(*parts)
        if self.is_s3:
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(data)
            return
        folder, name = os.path.split(path)
        temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
        try:
            os.makedirs(folder, exist_ok=True)
            _write_synced(temporary, data)
            os.replace(temporary, path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)
        _sync_folder(folder)

    @contextmanager
    def replacing(self, *parts: str) -> Iterator[IO[bytes]]:
        """A stream whose bytes become the file in place of the one that was there, at its end.

        After an error the file that was there stays. A process that is killed leaves a hidden
        file `.….tmp` beside it at most.
        """
        path = self.path(*parts)
        folder, name = path.rsplit("/", 1)
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            if self.is_s3:
                with self.filesystem.open_output_stream(temporary) as stream:
                    yield stream
                self.filesystem.copy_file(temporary, path)
            else:
                with open(temporary, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
                _sync_folder(folder)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), path) from error
        finally:
            if self._there(temporary):
                self.filesystem.delete_file(temporary)

    def write_parquet(self, rows: pa.Table, *parts: str) -> FilePart:
        """Write one Parquet file (zstd) as `replace_file` does; equal rows give equal bytes."""
        sink = pa.BufferOutputStream()
        pq.write_table(rows.combine_chunks(), sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        self.replace_file(data, *parts)
        return FilePart(
            path="/".join(parts),
            num_rows=rows.num_rows,
            num_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )

    def move_dir(self, source: tuple[str, ...], target: tuple[str, ...]) -> None:
        """Move every file under `source` to `target`, over files of the same name.

        File by file, each one atomic, so that a move that was cut off goes on where it stopped;
        nothing to do when `source` is not there. What readers see must not depend on the folder.
        """
        names = sorted(self._walk(*source))
        if self.is_s3:
            old_paths = [self.path(*source, name) for name in names]
            new_paths = [self.path(*target, name) for name in names]
            with ThreadPoolExecutor(_S3_THREADS) as pool:
                list(pool.map(self._copy_s3, old_paths, new_paths))
        else:
            for name in names:
                new_path = self.path(*target, name)
                os.makedirs(os.path.dirname(new_path), exist_ok=True)
                if not _vanished(os.replace, self.path(*source, name), new_path):
                    continue
                if not os.path.exists(new_path):  # gone, and not moved by another mover either
                    raise FileNotFoundError(2, "moved away by another process", new_path)
            for folder in {os.path.dirname(self.path(*target, name)) for name in names}:
                _sync_folder(folder)
        self.remove_dir(*source)

    def remove_dir(self, *parts: str) -> None:
        """Remove a folder and all in it; nothing to do when it is not there."""
        path = self.path(*parts)
        if self.is_s3:
            if self.exists(*parts):
                self.filesystem.delete_dir(path)
        else:
            _remove_tree(path)

    def remove_file(self, *parts: str) -> None:
        """Remove a file; nothing to do when it is not there."""
        if not self.is_s3:
            _vanished(os.remove, self.path(*parts))
        elif self.exists(*parts):
            self.filesystem.delete_file(self.path(*parts))

    def check_writable(self) -> None:
        """Raise `R2ecError` with the path and the remedy when nothing can be written here."""
        probe = ("_staging", f".write-check-{uuid.uuid4().hex}")
        try:
            self.replace_file(b"", *probe)
            self.remove_file(*probe)
        except OSError as error:
            remedy = "the bucket, keys and AWS_ENDPOINT_URL" if self.is_s3 else "its permissions"
            raise R2ecError(
                f"cannot write to the warehouse {self.path()}: {error.strerror or error}; "
                f"check {remedy}, the free space, or give another place by --warehouse"
            ) from error

    def read_pointers(self, files: list[str]) -> list[pa.Table]:
        """Small files that others may replace meanwhile: each is read at one moment, and whole."""
        with ThreadPoolExecutor(_S3_THREADS) as pool:
            return list(pool.map(self._read_pointer, files))

    @contextmanager
    def _readable(self, table: schemas.Table, path: str) -> Iterator[None]:
        """Reading within the block: damaged files are told by their path and the remedy."""
        try:
            yield
        except R2ecError:
            raise
        except (pa.ArrowInvalid, OSError) as error:
            # What Arrow finds wrong in a file has no number, nor has a store out of reach.
            if isinstance(error, OSError) and (error.errno is not None or self.is_s3):
                raise
            reason = str(error).splitlines()[0]
            raise NotReadyError(
                f"{path} cannot be read as Parquet ({reason}); copy it again, or remove it and"
                f" build it anew with {BUILT_BY[table.name]}"
            ) from error

    def _read_pointer(self, file: str) -> pa.Table:
        # S3 is asked for the size, then for that many bytes: of a longer file that came in between
        # the end is missing. Parquet needs its end, so that is noticed.
        for _ in range(_TORN_READS):
            data = self.read_file(file)
            if data[-4:] == _PARQUET_END:
                break
        return pq.ParquetFile(pa.BufferReader(data)).read()

    def _require_files(self, table: schemas.Table, partition: dict[str, str]) -> list[str]:
        parts = _partition_parts(table, partition)
        files = self.list_files(*parts)
        if not files:
            there = self.partitions(table.name, table.partition_by[0]) if partition else []
            have = f" (there is: {', '.join(there[-5:])})" if there else ""
            raise NotReadyError(
                f"table {'/'.join(parts)} has no rows at {self.path(*parts)}{have}; "
                f"{BUILT_BY[table.name]} builds it"
            )
        return files

    def _walk(self, *parts: str) -> Iterator[str]:
        """Paths relative to `parts` of all files under it, hidden ones too, in no order."""
        top = self.path(*parts)
        if self.is_s3:
            selector = pafs.FileSelector(top, allow_not_found=True, recursive=True)
            for info in self.filesystem.get_file_info(selector):
                if info.type == pafs.FileType.File:
                    yield info.path.removeprefix(top).lstrip("/")
        else:
            for folder, _, names in os.walk(top):
                for name in names:
                    yield os.path.relpath(os.path.join(folder, name), top)

    def _copy_s3(self, source: str, target: str) -> None:
        try:
            self.filesystem.copy_file(source, target)
        except OSError:
            # Moved by another mover in the meantime, or a real failure?
            if self._there(source) or not self._there(target):
                raise

    def _there(self, path: str) -> bool:
        return bool(self.filesystem.get_file_info(path).type != pafs.FileType.NotFound)


def _safe_part(part: str) -> str:
    if part.startswith("/") or ".." in part.split("/") or "\0" in part:
        raise UsageError(f"{part!r} leads out of the warehouse; give a name without '..' and '/'")
    return part


def _partition_parts(table: schemas.Table, partition: dict[str, str]) -> list[str]:
    columns = table.partition_by[: len(partition)]
    if set(columns) != set(partition):
        raise UsageError(
            f"table {table.name} is partitioned by {', '.join(table.partition_by) or 'nothing'}; "
            f"got {', '.join(partition)}"
        )
    for column, value in partition.items():
        if not _PARTITION_VALUE.fullmatch(value):
            raise UsageError(f"{column}={value!r} is no partition of {table.name}")
    return [table.name, *(f"{column}={partition[column]}" for column in columns)]


def _require_columns(table: schemas.Table, found: pa.Schema, path: str) -> None:
    needed = [name for name in table.schema.names if name not in table.may_lack]
    missing = [name for name in needed if name not in found.names]
    if missing:
        raise UsageError(
            f"{path} lacks column {', '.join(missing)} of table {table.name}; "
            f"build it again with {BUILT_BY[table.name]}"
        )


def _cast(table: schemas.Table, rows: Any, schema: pa.Schema, path: str) -> Any:
    """Rows in the table's schema; `UsageError` for another type, or a null where none may be."""
    try:
        return rows.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise UsageError(f"{path}: {error}; build it again with {BUILT_BY[table.name]}") from error


def _readable_schema(table: schemas.Table, found: pa.Schema, names: list[str]) -> pa.Schema:
    """The table's schema for these columns; embeddings keep the fixed size that the file has."""
    schema = table.schema
    if table is schemas.ITEM_EMBEDDINGS:
        embedding = found.field("embedding").type
        if pa.types.is_fixed_size_list(embedding):
            schema = schemas.item_embeddings_schema(embedding.list_size)
    return pa.schema([schema.field(name) for name in names])


def _write_synced(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: str) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _vanished(act: Callable[..., None], *paths: str) -> bool:
    """Do `act` on the paths; true when the first was not there (any more)."""
    try:
        act(*paths)
    except FileNotFoundError:
        return True
    return False


def _remove_tree(path: str) -> None:
    """Remove a folder; what another remover took in the meantime is gone as wished."""
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            _vanished(os.remove, os.path.join(folder, name))
        _vanished(os.rmdir, folder)


def _s3_settings() -> tuple[str | None, str | None]:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return endpoint or None, region or ("us-east-1" if endpoint else None)


@lru_cache(maxsize=4)
def _s3_filesystem(endpoint: str | None, region: str | None) -> pafs.FileSystem:
    if endpoint is None:
        return pafs.S3FileSystem(region=region)
    address = urlsplit(endpoint)
    if address.scheme not in ("http", "https") or not address.netloc:
        raise UsageError(f"AWS_ENDPOINT_URL={endpoint!r} is no http:// or https:// address")
    place = (address.netloc + address.path).rstrip("/")
    return pafs.S3FileSystem(endpoint_override=place, scheme=address.scheme, region=region)
