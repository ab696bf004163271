"""Raw rows of the input files, each with its place, its text and its named columns as strings.

Lines are read as text and taken apart here, so that a row that cannot be parsed is still at hand
as it was written.
"""

from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    DataType,
    DateType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from r2ec.etl.files import LOCAL_SLASHES, InputFile
from r2ec.etl.session import SPLIT_BYTES

# place = number of the file, then the row's position in it: one int64 in the order of the input.
POSITION_BITS = 40
_ROW_BITS = 33  # monotonically_increasing_id keeps the row's number in its partition here
_MANY_PARTITIONS = 64
_COALESCED_BYTES = 128 * 1024 * 1024

RAW_SCHEMA = "place bigint, line string, reason string, typed_time bigint"


def read_rows(spark: SparkSession, files: list[InputFile], columns: dict[str, str]) -> DataFrame:
    """Every row of the files: `place`, `line`, `reason`, `typed_time` and a string per column.

    `columns` maps our name to the file's; a file without that column gives null. `reason` is null,
    `bad_encoding` or `broken_row`. `place` is unique, grows with (file name, position in the
    file), and depends on nothing else. `typed_time` holds microseconds where Parquet has the `time`
    column as a timestamp. Blank lines and CSV headers are no rows.
    """
    groups: dict[tuple[str, str, tuple[str, ...]], list[InputFile]] = {}
    for file in files:
        if file.columns or file.num_bytes:
            shape = file.columns if file.format != "jsonl" else ()
            groups.setdefault((file.format, file.delimiter, shape), []).append(file)
    if not groups:
        names = "".join(f", {name} string" for name in columns)
        return spark.createDataFrame([], f"{RAW_SCHEMA}{names}")
    return reduce(DataFrame.unionByName, [_group(spark, g, columns) for g in groups.values()])


def source_of(files: list[InputFile], place: Column) -> Column:
    """The address of the file that a place lies in."""
    uris = F.array(*[F.lit(file.uri) for file in files])
    return F.get(uris, F.shiftright(place, POSITION_BITS).cast("int"))


def _group(spark: SparkSession, files: list[InputFile], columns: dict[str, str]) -> DataFrame:
    if files[0].format == "parquet":
        return _parquet_rows(spark, files, columns)
    paths = [file.read_path for file in files]
    in_partition = F.monotonically_increasing_id().bitwiseAND(F.lit((1 << _ROW_BITS) - 1))
    start = F.col("_metadata.file_block_start")
    text = spark.read.text(paths).select(
        F.col("value"),
        (start + in_partition).alias("position"),
        _uri().alias("uri"),
    )
    text = _numbered(spark, _fewer_partitions(spark, text, files), files)
    is_csv = files[0].format == "csv"
    if is_csv:
        text = text.where(F.col("position") > 0)  # the header
    text = text.where(F.trim(F.col("value")) != "")
    parsed = _parsed_csv(files[0]) if is_csv else _parsed_json(columns)
    rows = text.select(
        F.col("place"),
        F.expr("make_valid_utf8(value)").alias("line"),
        F.expr("is_valid_utf8(value)").alias("readable"),
        parsed.alias("parsed"),
    )
    row = F.col("parsed") if is_csv else F.get("parsed", F.lit(0))
    broken = row["_broken"].isNotNull() if is_csv else (_size("parsed") != 1) | row.isNull()
    return rows.select(
        "place",
        "line",
        F.when(~F.col("readable"), "bad_encoding").when(broken, "broken_row").alias("reason"),
        F.lit(None).cast("bigint").alias("typed_time"),
        *[_field(row, files[0], column).alias(name) for name, column in columns.items()],
    )


def _parsed_csv(file: InputFile) -> Column:
    """A struct `c0, c1, …` of the line's values; `_broken` is set where their number is wrong."""
    names = [*(f"c{index}" for index in range(len(file.columns))), "_broken"]
    schema = ", ".join(f"{name} string" for name in names)
    options = {"sep": file.delimiter, "escape": '"', "columnNameOfCorruptRecord": "_broken"}
    return F.from_csv(F.col("value"), schema, options | {"maxCharsPerColumn": "-1"})


def _parsed_json(columns: dict[str, str]) -> Column:
    """The line as the only element of an array: text after the object is then an error too."""
    wanted = dict.fromkeys(columns.values())
    row = StructType([StructField(column, StringType()) for column in wanted])
    return F.from_json(F.concat(F.lit("["), F.col("value"), F.lit("]")), ArrayType(row))


def _field(row: Column, file: InputFile, column: str) -> Column:
    if file.format == "jsonl":
        return row[column]
    if column in file.columns:
        return row[f"c{file.columns.index(column)}"]
    return F.lit(None).cast("string")


def _size(array: str) -> Column:
    return F.coalesce(F.size(array), F.lit(0))


def _parquet_rows(
    spark: SparkSession, files: list[InputFile], columns: dict[str, str]
) -> DataFrame:
    rows = spark.read.parquet(*[file.read_path for file in files])
    types = {item.name: item.dataType for item in rows.schema.fields}
    text = F.lit(None).cast("string")
    named = rows.select(
        F.col("_metadata.row_index").alias("position"),
        _uri().alias("uri"),
        F.to_json(F.struct(*[rows[column] for column in rows.columns])).alias("line"),
        text.alias("reason"),
        _typed_time(rows, types, columns.get("time")).alias("typed_time"),
        *[
            (_as_text(rows[column], types[column]) if column in types else text).alias(name)
            for name, column in columns.items()
        ],
    )
    return _numbered(spark, named, files).select("place", "line", "reason", "typed_time", *columns)


def _typed_time(rows: DataFrame, types: dict[str, DataType], column: str | None) -> Column:
    """Microseconds of a time column that is a timestamp or date by type; null otherwise."""
    timed = (TimestampType, TimestampNTZType, DateType)
    if column is None or not isinstance(types.get(column), timed):
        return F.lit(None).cast("bigint")
    return F.unix_micros(rows[column].cast("timestamp"))


def _as_text(column: Column, kind: DataType) -> Column:
    if isinstance(kind, (ArrayType, MapType, StructType)):
        return F.to_json(column)
    return column.cast("string")


def _uri() -> Column:
    return F.regexp_replace(F.col("_metadata.file_path"), LOCAL_SLASHES, "file:/")


def _numbered(spark: SparkSession, rows: DataFrame, files: list[InputFile]) -> DataFrame:
    """Turn `uri` and `position` into `place`; `position` stays."""
    if len(files) == 1:
        number = F.lit(files[0].number).cast("bigint")
    else:
        known = spark.createDataFrame(
            [(f.uri, f.number) for f in files], "uri string, number bigint"
        )
        rows = rows.join(F.broadcast(known), on="uri", how="left")
        number = F.col("number")
    place = F.shiftleft(number, POSITION_BITS).bitwiseOR(F.col("position"))
    # A row of a file that was not listed would lose its order: fail rather than guess.
    place = F.coalesce(place, F.raise_error(F.concat(F.lit("unlisted file "), F.col("uri"))))
    return rows.withColumn("place", place.cast("bigint"))


def _fewer_partitions(spark: SparkSession, rows: DataFrame, files: list[InputFile]) -> DataFrame:
    """Read many small files by few tasks. Positions are taken before, so they don't change."""
    partitions = sum(1 + file.num_bytes // SPLIT_BYTES for file in files)
    if partitions <= _MANY_PARTITIONS:
        return rows
    wanted = sum(file.num_bytes for file in files) // _COALESCED_BYTES
    return rows.coalesce(max(wanted, 3 * spark.sparkContext.defaultParallelism))
