"""Raw rows of the inputs, each with its place, its text and its named columns."""

from collections.abc import Callable
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StructType

from r2ec.etl.files import InputFile
from r2ec.etl.session import SPLIT_BYTES
from r2ec.etl.text_rows import parse_lines, read_lines, read_records, record_values
from r2ec.etl.typed_rows import POSITION_BITS as POSITION_BITS
from r2ec.etl.typed_rows import read_parquet, read_table, typed_values

_MANY_PARTITIONS = 64
_COALESCED_BYTES = 128 * 1024 * 1024

Transform = Callable[[DataFrame], DataFrame]


def read_rows(
    spark: SparkSession, files: list[InputFile], columns: dict[str, str], shape: Transform
) -> DataFrame:
    """Every row of the files, shaped: `shape` gets `place`, `line`, `reason` and our columns.

    `columns` maps our name to the file's; a file without that column gives null. Columns are texts,
    or of their own types where the input has types: `shape` is applied to the rows of each kind of
    file, and makes them alike. `reason` is null, `bad_encoding`, `broken_row` or `broken_file`
    (one row for a file that is skipped). `place` is unique, grows with (file name, position in the
    file), and depends on nothing else; for a table see `typed_rows.read_table`.
    """
    groups: dict[tuple[object, ...], list[InputFile]] = {}
    for file in files:
        if not file.error and (file.columns or file.num_bytes):
            kind = file.columns if file.format == "csv" else file.schema
            key = (file.format, file.delimiter, file.has_header, kind)
            groups.setdefault(key, []).append(file)
    parts = [shape(_group(spark, group, columns)) for group in groups.values()]
    broken = [(file.number << POSITION_BITS, file.error) for file in files if file.error]
    if broken or not parts:
        parts.append(shape(_without_values(spark, broken, columns)))
    return reduce(DataFrame.unionByName, parts)


def source_of(files: list[InputFile], place: Column) -> Column:
    """The address of the file that a place lies in, or the table's name."""
    if len(files) == 1:
        return F.lit(files[0].uri)
    uris = F.array(*[F.lit(file.uri) for file in files])
    return F.get(uris, F.shiftright(place, POSITION_BITS).cast("int"))


def as_text(column: Column, kind: DataType) -> Column:
    """A value as text: lists and objects as JSON."""
    if isinstance(kind, (ArrayType, MapType, StructType)):
        return F.to_json(column)
    return column.cast("string")


def _without_values(
    spark: SparkSession, rows: list[tuple[int, str]], columns: dict[str, str]
) -> DataFrame:
    kept = spark.createDataFrame(rows, "place bigint, line string")
    empty = F.lit(None).cast("string")
    reason = F.lit("broken_file").alias("reason")
    return kept.select("place", "line", reason, *[empty.alias(name) for name in columns])


def _group(spark: SparkSession, files: list[InputFile], columns: dict[str, str]) -> DataFrame:
    """The rows of files that are alike."""
    if files[0].format == "table":
        return typed_values(read_table(spark, files[0], columns), files[0], columns)
    if files[0].format == "parquet":
        rows = _placed(spark, read_parquet(spark, files, columns), files)
        return typed_values(rows, files[0], columns)
    if files[0].is_multi_line:
        return record_values(_placed(spark, read_records(spark, files), files), files[0], columns)
    return parse_lines(_placed(spark, read_lines(spark, files), files), files[0], columns)


def _placed(spark: SparkSession, rows: DataFrame, files: list[InputFile]) -> DataFrame:
    """Add `place` from `path` and `position`."""
    rows = _fewer_partitions(spark, rows, files)
    if len(files) == 1:
        number = F.lit(files[0].number).cast("bigint")
    else:
        names = [(name, file.number) for file in files for name in _spellings(file.uri)]
        known = spark.createDataFrame(names, "path string, number bigint")
        rows = rows.join(F.broadcast(known), on="path", how="left")
        number = F.col("number")
    place = F.shiftleft(number, POSITION_BITS).bitwiseOR(F.col("position"))
    # A row of a file that was not listed would lose its order: fail rather than guess.
    place = F.coalesce(place, F.raise_error(F.concat(F.lit("unlisted file "), F.col("path"))))
    return rows.withColumn("place", place.cast("bigint"))


def _spellings(uri: str) -> list[str]:
    """An address as Spark may write it: a local one begins with one slash or three."""
    is_local = uri.startswith("file:/")
    return [uri, uri.replace("file:/", "file:///", 1)] if is_local else [uri]


def _fewer_partitions(spark: SparkSession, rows: DataFrame, files: list[InputFile]) -> DataFrame:
    """Read many small files by few tasks. Positions are taken before, so they don't change."""
    partitions = sum(1 + file.num_bytes // SPLIT_BYTES for file in files)
    if partitions <= _MANY_PARTITIONS:
        return rows
    wanted = sum(file.num_bytes for file in files) // _COALESCED_BYTES
    return rows.coalesce(max(wanted, 3 * spark.sparkContext.defaultParallelism))
