"""What the columns of an input file are: from its header, its first lines or its footer."""

import csv
import json
import re
from collections.abc import Iterator
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from r2ec.errors import R2ecError, UsageError

_SAMPLE_LINES = 200
_NANOS = re.compile(r"int64 (.+) \(TIMESTAMP\(NANOS")


def csv_header(spark: SparkSession, uri: str, delimiter: str) -> tuple[str, ...]:
    """The columns that the first line of a CSV file names.

    Raises `UsageError` for a line that is blank, has NUL bytes or names a column twice.
    """
    line = next(_lines(spark, uri, 1), "")
    if not line.strip() and first_text(spark, uri):
        raise UsageError(f"{uri}: the first line is blank; it must name the columns")
    if "\0" in line:
        raise UsageError(f"{uri}: the header has NUL bytes (UTF-16?); convert the file to UTF-8")
    names = next(csv.reader([line], delimiter=delimiter), [])
    columns = tuple(name.strip() for name in names)
    repeated = {name for name in columns if columns.count(name) > 1}
    if repeated:
        names_text = ", ".join(sorted(repeated))
        raise UsageError(f"{uri}: column {names_text} stands twice in the header")
    return columns


def first_text(spark: SparkSession, uri: str) -> str:
    """The first line that is not blank, of the first ones."""
    return next((line for line in _lines(spark, uri, _SAMPLE_LINES) if line.strip()), "")


def json_keys(spark: SparkSession, uri: str) -> tuple[str, ...]:
    """The keys of the objects in the first lines of a JSON lines file."""
    keys: dict[str, None] = {}
    for line in _lines(spark, uri, _SAMPLE_LINES):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a broken row is counted and kept when the rows are read
        if isinstance(row, dict):
            keys |= dict.fromkeys(row)
    return tuple(keys)


def python_keys(spark: SparkSession, uri: str) -> tuple[str, ...]:
    """The keys in the first lines of a file of Python dictionaries, as far as a look tells."""
    found: dict[str, None] = {}
    for line in _lines(spark, uri, _SAMPLE_LINES):
        found |= dict.fromkeys(re.findall(r"""[{,]\s*u?['"](\w+)['"]\s*:""", line))
    return tuple(found)


def parquet_schema(spark: SparkSession, uri: str) -> tuple[tuple[str, ...], str]:
    """Columns and schema (as text) in a Parquet file's footer, read without a Spark job."""
    jvm: Any = spark.sparkContext._jvm
    hadoop = jvm.org.apache.parquet.hadoop
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    try:
        path = jvm.org.apache.hadoop.fs.Path(jvm.java.net.URI(uri))
        reader = hadoop.ParquetFileReader.open(hadoop.util.HadoopInputFile.fromPath(path, conf))
        try:
            schema = reader.getFooter().getFileMetaData().getSchema()
            names = tuple(str(field.getName()) for field in schema.getFields())
            text = str(schema.toString())
        finally:
            reader.close()
    except Py4JJavaError as error:
        raise unreadable(uri, error) from error
    if nanosecond_columns(text):
        spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    return names, text


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


def _lines(spark: SparkSession, uri: str, count: int) -> Iterator[str]:
    """The first lines of a text file, decompressed by the codec that Spark will use."""
    jvm: Any = spark.sparkContext._jvm
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    reader = None
    try:
        path = jvm.org.apache.hadoop.fs.Path(jvm.java.net.URI(uri))
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
        raise unreadable(uri, error) from error
    finally:
        if reader is not None:
            reader.close()
