"""What the columns of an input file are: from its header, its first lines or its footer."""

import csv
import json
import re
from collections.abc import Iterator
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from r2ec.errors import R2ecError, UsageError
from r2ec.etl.python_lines import json_line

Names = tuple[str, ...]

_SAMPLE_LINES = 200
_UNIT_SEPARATOR = "\x1f"
_LZ4_FRAME = b"\x04\x22\x4d\x18"
_NANOS = re.compile(r"int64 (.+) \(TIMESTAMP\(NANOS")


def require_encoding(spark: SparkSession, encoding: str) -> None:
    """Raise UsageError for an encoding that Spark's Java does not know; let Spark use all others.

    Left to itself it decodes some few alone, and fails at the first value that cannot be read.
    """
    jvm: Any = spark.sparkContext._jvm
    if not jvm.java.nio.charset.Charset.isSupported(encoding):
        raise UsageError(f"encoding {encoding!r}: Java knows none of that name; convert the file")
    if encoding != "utf-8":
        spark.conf.set("spark.sql.legacy.javaCharsets", "true")
        spark.conf.set("spark.sql.legacy.codingErrorAction", "true")


def csv_header(spark: SparkSession, uri: str, delimiter: str, quote: str, encoding: str) -> Names:
    """The columns that the first line of a CSV file names.

    Raises `UsageError` for a line that is blank, has NUL bytes or names a column twice.
    """
    line = next(_lines(spark, uri, 1, encoding), "")
    if not line.strip() and first_text(spark, uri, encoding):
        raise UsageError(f"{uri}: the first line is blank; it must name the columns")
    if "\0" in line:
        raise UsageError(f"{uri}: the header has NUL bytes (UTF-16?); convert the file to UTF-8")
    if len(delimiter) > 1:
        line, delimiter = line.replace(delimiter, _UNIT_SEPARATOR), _UNIT_SEPARATOR
    if quote:
        names = next(csv.reader([line], delimiter=delimiter, quotechar=quote), [])
    else:
        names = line.split(delimiter)
    columns = tuple(name.strip() for name in names)
    repeated = {name for name in columns if columns.count(name) > 1}
    if repeated:
        names_text = ", ".join(sorted(repeated))
        raise UsageError(f"{uri}: column {names_text} stands twice in the header")
    return columns


def first_text(spark: SparkSession, uri: str, encoding: str) -> str:
    """The first line that is not blank, of the first ones."""
    lines = _lines(spark, uri, _SAMPLE_LINES, encoding)
    return next((line for line in lines if line.strip()), "")


def json_keys(spark: SparkSession, uri: str, encoding: str) -> tuple[Names, Names]:
    """The keys of the objects in the first lines of a JSON lines file, and those within them."""
    keys: dict[str, None] = {}
    nested: dict[str, None] = {}
    for line in _lines(spark, uri, _SAMPLE_LINES, encoding):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a broken row is counted and kept when the rows are read
        if isinstance(row, dict):
            keys |= dict.fromkeys(row)
            nested |= dict.fromkeys(_paths(row))
    return tuple(keys), tuple(nested)


def python_keys(spark: SparkSession, uri: str, encoding: str) -> tuple[Names, Names]:
    """The same of a file of Python dictionaries, as far as a look tells."""
    found: dict[str, None] = {}
    nested: dict[str, None] = {}
    for line in _lines(spark, uri, _SAMPLE_LINES, encoding):
        nested |= dict.fromkeys(_paths(json.loads(json_line(line) or "{}")))
        found |= dict.fromkeys(re.findall(r"""[{,]\s*u?['"](\w+)['"]\s*:""", line))
    return tuple(found), tuple(nested)


def parquet_schema(spark: SparkSession, uri: str) -> tuple[Names, Names, str]:
    """Columns, fields within them and schema (as text) in a Parquet file's footer.

    Read without a Spark job.
    """
    jvm: Any = spark.sparkContext._jvm
    hadoop = jvm.org.apache.parquet.hadoop
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    try:
        path = jvm.org.apache.hadoop.fs.Path(jvm.java.net.URI(uri))
        reader = hadoop.ParquetFileReader.open(hadoop.util.HadoopInputFile.fromPath(path, conf))
        try:
            schema = reader.getFooter().getFileMetaData().getSchema()
            names = tuple(str(field.getName()) for field in schema.getFields())
            nested = tuple(_group_paths(schema))
            text = str(schema.toString())
        finally:
            reader.close()
    except Py4JJavaError as error:
        raise unreadable(uri, error) from error
    if nanosecond_columns(text):
        spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    return names, nested, text


def nanosecond_columns(schema: str) -> frozenset[str]:
    """The columns of a Parquet schema that are timestamps in nanoseconds, which Spark lacks."""
    return frozenset(_NANOS.findall(schema))


def unreadable(uri: str, error: Py4JJavaError) -> R2ecError:
    """What is said of a file that cannot be read."""
    return R2ecError(
        f"{uri}: cannot be read: {java_message(error)}; fetch the file again, leave it out, or "
        "give --skip-broken-files"
    )


def java_message(error: Py4JJavaError) -> str:
    """The first line of a Java exception."""
    return str(error.java_exception.toString()).splitlines()[0]


def _paths(row: dict[str, Any], above: str = "") -> Iterator[str]:
    """The fields of the objects within an object, as `key.field`."""
    for key, value in row.items():
        if above:
            yield f"{above}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{above}{key}.")


def _group_paths(group: Any, above: str = "") -> Iterator[str]:
    """The same of a group of a Parquet schema; lists and maps have no fields of a name."""
    for field in group.getFields():
        name = str(field.getName())
        if above:
            yield f"{above}{name}"
        is_struct = not field.isPrimitive() and field.getLogicalTypeAnnotation() is None
        if is_struct and str(field.getRepetition()) != "REPEATED":
            yield from _group_paths(field.asGroupType(), f"{above}{name}.")


def _require_blocks(stream: Any, uri: str) -> None:
    """Raise UsageError for LZ4 as the `lz4` program writes it: Hadoop would read it as empty."""
    head = bytes(stream.read() & 0xFF for _ in _LZ4_FRAME)
    stream.seek(0)
    if head == _LZ4_FRAME:
        raise UsageError(
            f"{uri}: written by the lz4 program, in another format than Hadoop's .lz4; pack the "
            "file by gzip or zstd"
        )


def _lines(spark: SparkSession, uri: str, count: int, encoding: str) -> Iterator[str]:
    """The first lines of a text file, decompressed as Spark will do it."""
    jvm: Any = spark.sparkContext._jvm
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    reader = None
    try:
        path = jvm.org.apache.hadoop.fs.Path(jvm.java.net.URI(uri))
        stream = path.getFileSystem(conf).open(path)
        if uri.lower().endswith(".lz4"):
            _require_blocks(stream, uri)
        codec = jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(conf).getCodec(path)
        if codec is not None and uri.lower().endswith(".zst"):
            # Hadoop's own codec needs a library that few machines have; Spark brings another.
            plain = jvm.com.github.luben.zstd.ZstdInputStream(stream)
        else:
            plain = stream if codec is None else codec.createInputStream(stream)
        reader = jvm.java.io.BufferedReader(jvm.java.io.InputStreamReader(plain, encoding))
        for _ in range(count):
            line = reader.readLine()
            if line is None:
                return
            yield line.lstrip("\ufeff")
    except Py4JJavaError as error:
        raise unreadable(uri, error) from error
    finally:
        if reader is not None:
            reader.close()
