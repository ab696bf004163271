"""The input files of a job: found through Hadoop's filesystems, sorted by name, with their columns.

A file's number in this order stands for its name wherever the place of a row counts.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from r2ec.errors import NotReadyError, R2ecError, UsageError
from r2ec.etl.broken_files import reading_error
from r2ec.etl.file_heads import (
    csv_header,
    first_text,
    java_message,
    json_keys,
    parquet_schema,
    python_keys,
    require_encoding,
)
from r2ec.etl.input_table import table_facts
from r2ec.etl.inputs import ColumnName, InteractionInput, ItemInput
from r2ec.etl.reasons import example

EXTENSIONS = {
    "csv": "csv",
    "tsv": "csv",
    "jsonl": "jsonl",
    "json": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
}
_COMPRESSED = re.compile(r"\.(gz|bz2|zst|lz4|snappy|deflate)$", re.IGNORECASE)
_LOOKERS = 8
_SHOWN_FIELDS = 20
LOCAL_SLASHES = "^file:/+"
# What a table is taken for of which nobody knows how large it is.
_UNKNOWN_TABLE_BYTES = 1 << 36


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """One file: its number among the inputs, its address, format and columns.

    `uri` is the address that Spark reports for each row, in its plain form; `read_path` is what
    Spark is told to read (pattern characters escaped). A file without a row has no `columns`.
    `has_header` and `is_multi_line` are of CSV alone, `schema` of Parquet (as its footer has it).
    `nested` are the fields within columns, as `column.field`. With an `error` the file cannot be
    read. A table of Spark's catalog is a file of the format `table`: both addresses are its name,
    and its bytes are 0 where nobody knows them.
    """

    number: int
    uri: str
    read_path: str
    format: str
    num_bytes: int
    delimiter: str = ","
    quote: str = '"'
    encoding: str = "utf-8"
    has_header: bool = True
    is_multi_line: bool = False
    columns: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    schema: str = ""
    error: str | None = None

    def has(self, column: str) -> bool:
        """Whether there is such a column, or such a field of one."""
        return column in self.columns or column in self.nested

    @property
    def num_plain_bytes(self) -> int:
        """About how many bytes it has when read: compressed text grows about fivefold."""
        if self.format == "table" and not self.num_bytes:
            return _UNKNOWN_TABLE_BYTES
        is_packed = self.format in ("parquet", "table") or _COMPRESSED.search(self.uri)
        return self.num_bytes * (5 if is_packed else 1)


def find_inputs(
    spark: SparkSession, source: InteractionInput | ItemInput, option: str
) -> list[InputFile]:
    """The table, or all files under the paths (files, folders, globs), sorted by address.

    Names that start with `_` or `.` are no input. Raises NotReadyError for a path without files
    or a table that is not there, and UsageError for a file whose format cannot be told; `option`
    names the option to blame. A file that cannot be read is an error unless it may be skipped.
    """
    if source.table:
        columns, nested, num_bytes = table_facts(spark, source.table, option)
        return [
            InputFile(
                number=0,
                uri=source.table,
                read_path=source.table,
                format="table",
                num_bytes=num_bytes,
                columns=columns,
                nested=nested,
            )
        ]
    require_encoding(spark, source.encoding)
    found: dict[str, Any] = {}
    for path in source.paths:
        statuses = list(_walk(spark, path))
        if not statuses:
            raise NotReadyError(f"{option} {path}: no such file or folder, or nothing in it")
        found |= {plain_uri(status.getPath().toUri().toString()): status for status in statuses}
    unread = []
    for number, (uri, status) in enumerate(sorted(found.items())):
        if uri.startswith("file:") and ":" in uri.rsplit("/", 1)[-1]:
            raise UsageError(
                f"{uri}: Hadoop reads no local file with a colon in its name; rename it, or put it "
                "on another store"
            )
        kind, separator = _kind(uri, source.format, option)
        file = InputFile(
            number=number,
            uri=uri,
            read_path=re.sub(r"([\\{}\[\]*?])", r"\\\1", status.getPath().toString()),
            format=kind,
            num_bytes=status.getLen(),
            delimiter=source.delimiter or separator,
            quote=source.quote,
            encoding=source.encoding,
            has_header=not source.column_names,
            is_multi_line=source.multi_line and kind == "csv",
            columns=source.column_names,
        )
        unread.append(file)
    # Looking into a file is mostly waiting for its store.
    with ThreadPoolExecutor(max_workers=_LOOKERS) as pool:
        return list(pool.map(lambda file: _looked_into(spark, file, source), unread))


def plain_uri(uri: str) -> str:
    """The address in the one form used here; Hadoop writes local ones with one slash or three."""
    return re.sub(LOCAL_SLASHES, "file:/", uri)


def resolve(files: list[InputFile], columns: dict[str, ColumnName]) -> dict[str, str]:
    """Our name -> the input's column: of several names the first that any of the files has."""
    there = {column for file in files for column in (*file.columns, *file.nested)}
    names = {name: (c,) if isinstance(c, str) else c for name, c in columns.items()}
    return {name: next((c for c in some if c in there), some[0]) for name, some in names.items()}


def require_columns(
    files: list[InputFile],
    columns: dict[str, ColumnName],
    required: frozenset[str],
    options: dict[str, str],
) -> None:
    """Raise UsageError when a file lacks a column that must be there, listing those it has."""
    wanted = resolve(files, columns)
    for file in files:
        for name in sorted(required) if file.columns and not file.error else ():
            if not file.has(wanted[name]):
                names = columns[name]
                others = "" if isinstance(names, str) else f", nor {', '.join(names[1:])}"
                raise UsageError(
                    f"{file.uri} has no column {wanted[name]!r}{others} "
                    f"(it has: {_listed(file)}); name the right one by {options[name]}"
                )


def require_columns_somewhere(spark: SparkSession, files: list[InputFile], option: str) -> None:
    """Raise UsageError when the files have lines, and in none of them a column can be told."""
    if any(file.columns or file.error for file in files):
        return
    for file in files:
        line = first_text(spark, file.uri, file.encoding) if file.num_bytes else ""
        if line:
            raise UsageError(
                f"{file.uri}: none of its first lines is a JSON object (it begins with "
                f"{example(line)!r}); give one object a line (`jq -c '.[]'` makes them of an "
                f"array), or {option}-format pydict for Python dictionaries"
            )


def _listed(file: InputFile) -> str:
    """The columns for people; of fields within them the first, as some have hundreds."""
    more = ", …" if len(file.nested) > _SHOWN_FIELDS else ""
    return ", ".join([*file.columns, *file.nested[:_SHOWN_FIELDS]]) + more


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


def _looked_into(
    spark: SparkSession, file: InputFile, source: InteractionInput | ItemInput
) -> InputFile:
    """The file with its columns, or with what is wrong with it if it may be skipped."""
    try:
        known = _with_columns(spark, file)
    except UsageError:
        raise
    except R2ecError as error:
        if not source.skip_broken_files:
            raise
        return replace(file, error=str(error).split("; ", 1)[0])
    if not source.skip_broken_files or not file.num_bytes:
        return known
    return replace(known, error=reading_error(spark, file.format, file.read_path))


def _with_columns(spark: SparkSession, file: InputFile) -> InputFile:
    if file.num_bytes == 0:
        return replace(file, columns=())
    if file.format == "parquet":
        names, nested, schema = parquet_schema(spark, file.uri)
        return replace(file, columns=names, nested=nested, schema=schema)
    if file.columns:
        first_text(spark, file.uri, file.encoding)  # an error where it cannot be read
        return file
    if file.format == "csv":
        names = csv_header(spark, file.uri, file.delimiter, file.quote, file.encoding)
        return replace(file, columns=names)
    keys = python_keys if file.format == "pydict" else json_keys
    names, nested = keys(spark, file.uri, file.encoding)
    return replace(file, columns=names, nested=nested)
