"""The input files of a job: found through Hadoop's filesystems, sorted by name, with their columns.

A file's number in this order stands for its name wherever the place of a row counts.
"""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from r2ec.errors import NotReadyError, R2ecError, UsageError

EXTENSIONS = {
    "csv": "csv",
    "tsv": "csv",
    "jsonl": "jsonl",
    "json": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
}
_COMPRESSED = re.compile(r"\.(gz|bz2|zst|lz4|snappy|deflate)$", re.IGNORECASE)
_SAMPLE_LINES = 200
LOCAL_SLASHES = "^file:/+"


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """One file: its number among the inputs, its address, kind and columns.

    `uri` is the address that Spark reports for each row, in its plain form; `read_path` is what
    Spark is told to read (pattern characters escaped). A file without a row has no `columns`.
    """

    number: int
    uri: str
    read_path: str
    format: str
    num_bytes: int
    delimiter: str = ","
    columns: tuple[str, ...] = field(default=())

    @property
    def num_plain_bytes(self) -> int:
        """About how many bytes it has when read: compressed text grows about fivefold."""
        return self.num_bytes * (
            5 if self.format == "parquet" or _COMPRESSED.search(self.uri) else 1
        )


def find_files(
    spark: SparkSession, paths: tuple[str, ...], *, format: str, delimiter: str | None, option: str
) -> list[InputFile]:
    """All files under the paths (files, folders, globs), sorted by address.

    Names that start with `_` or `.` are no input. Raises NotReadyError for a path without files
    and UsageError for a file whose format cannot be told; `option` names the option to blame.
    """
    found: dict[str, Any] = {}
    for path in paths:
        statuses = list(_walk(spark, path))
        if not statuses:
            raise NotReadyError(f"{option} {path}: no such file or folder, or nothing in it")
        found |= {plain_uri(status.getPath().toUri().toString()): status for status in statuses}
    files = []
    for number, (uri, status) in enumerate(sorted(found.items())):
        kind, separator = _kind(uri, format, option)
        unread = InputFile(
            number=number,
            uri=uri,
            read_path=re.sub(r"([\\{}\[\]*?])", r"\\\1", status.getPath().toString()),
            format=kind,
            num_bytes=status.getLen(),
            delimiter=delimiter or separator,
        )
        files.append(_with_columns(spark, unread))
    return files


def plain_uri(uri: str) -> str:
    """The address in the one form used here; Hadoop writes local ones with one slash or three."""
    return re.sub(LOCAL_SLASHES, "file:/", uri)


def require_columns(
    files: list[InputFile],
    columns: dict[str, str],
    required: frozenset[str],
    options: dict[str, str],
) -> None:
    """Raise UsageError when a file lacks a column that must be there, listing those it has."""
    for file in files:
        for name in sorted(required) if file.columns else ():
            if columns[name] not in file.columns:
                raise UsageError(
                    f"{file.uri} has no column {columns[name]!r} "
                    f"(it has: {', '.join(file.columns)}); name the right one by {options[name]}"
                )


def _kind(uri: str, format: str, option: str) -> tuple[str, str]:
    extension = _COMPRESSED.sub("", uri.rsplit("/", 1)[-1]).rsplit(".", 1)[-1].lower()
    separator = "\t" if extension == "tsv" else ","
    kind = EXTENSIONS.get(extension) if format == "auto" else format
    if kind is None:
        raise UsageError(
            f"{uri}: cannot tell its format by its name; give {option}-format csv, jsonl or "
            f"parquet, or a narrower pattern such as '*.csv.gz'"
        )
    return kind, separator


def _walk(spark: SparkSession, path: str) -> Iterator[Any]:
    """The Hadoop file statuses under a path, a folder or a pattern; hidden names left out."""
    jvm: Any = spark.sparkContext._jvm
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    pattern = jvm.org.apache.hadoop.fs.Path(re.sub(r"^s3://", "s3a://", path))
    try:
        filesystem = pattern.getFileSystem(conf)
        exact = filesystem.exists(pattern)
        tops = [filesystem.getFileStatus(pattern)] if exact else filesystem.globStatus(pattern)
        pending = list(tops or [])
        while pending:
            status = pending.pop()
            if status.isDirectory():
                below = filesystem.listStatus(status.getPath())
                pending += [s for s in below if not s.getPath().getName().startswith(("_", "."))]
            else:
                yield status
    except Py4JJavaError as error:
        raise NotReadyError(f"{path}: cannot be listed: {java_message(error)}") from error


def _with_columns(spark: SparkSession, file: InputFile) -> InputFile:
    if file.num_bytes == 0:
        return file
    if file.format == "parquet":
        columns = tuple(spark.read.parquet(file.read_path).columns)
    elif file.format == "csv":
        columns = _header(file, next(_lines(spark, file, 1), ""))
    else:
        columns = _json_keys(list(_lines(spark, file, _SAMPLE_LINES)))
    return replace(file, columns=columns)


def _header(file: InputFile, line: str) -> tuple[str, ...]:
    names = next(csv.reader([line], delimiter=file.delimiter), [])
    columns = tuple(name.strip() for name in names)
    repeated = {name for name in columns if columns.count(name) > 1}
    if repeated:
        raise UsageError(
            f"{file.uri}: column {', '.join(sorted(repeated))} stands twice in the header"
        )
    return columns


def _json_keys(lines: list[str]) -> tuple[str, ...]:
    keys: dict[str, None] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a broken row is counted and kept when the rows are read
        if isinstance(row, dict):
            keys |= dict.fromkeys(row)
    return tuple(keys)


def _lines(spark: SparkSession, file: InputFile, count: int) -> Iterator[str]:
    """The first lines of a text file, decompressed by the codec that Spark will use."""
    jvm: Any = spark.sparkContext._jvm
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    reader = None
    try:
        path = jvm.org.apache.hadoop.fs.Path(jvm.java.net.URI(file.uri))
        stream = path.getFileSystem(conf).open(path)
        codec = jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(conf).getCodec(path)
        plain = stream if codec is None else codec.createInputStream(stream)
        reader = jvm.java.io.BufferedReader(jvm.java.io.InputStreamReader(plain, "UTF-8"))
        for _ in range(count):
            line = reader.readLine()
            if line is None:
                return
            yield line.lstrip("\ufeff")
    except Py4JJavaError as error:
        raise R2ecError(
            f"{file.uri}: cannot be read: {java_message(error)}; "
            "fetch the file again or leave it out"
        ) from error
    finally:
        if reader is not None:
            reader.close()


def java_message(error: Py4JJavaError) -> str:
    """The first line of a Java exception."""
    return str(error.java_exception.toString()).splitlines()[0]
