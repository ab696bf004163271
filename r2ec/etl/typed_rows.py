"""Rows that come with types: of Parquet files and of tables of Spark's catalog.

Values keep their types, and only the columns asked for are read. A row's line is the JSON of these
columns; it is made last, so that only the lines that are kept cost anything.
"""

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import MapType

from r2ec.etl.file_heads import nanosecond_columns
from r2ec.etl.files import InputFile

# place = number of the file, then the row's position in it: one int64 in the order of the input.
POSITION_BITS = 40


def read_parquet(spark: SparkSession, files: list[InputFile], columns: dict[str, str]) -> DataFrame:
    """`position`, `path` and the columns of the files that are wanted, as `v0`, `v1`, …

    The files have one schema. Timestamps in nanoseconds lose what is below microseconds.
    """
    nanoseconds = nanosecond_columns(files[0].schema)
    values = [
        _micros(column) if column in nanoseconds else _value(files[0], column)
        for column in _wanted(files[0], columns)
    ]
    return spark.read.parquet(*[file.read_path for file in files]).select(
        F.col("_metadata.row_index").alias("position"),
        F.col("_metadata.file_path").alias("path"),
        *[value.alias(f"v{index}") for index, value in enumerate(values)],
    )


def read_table(spark: SparkSession, table: InputFile, columns: dict[str, str]) -> DataFrame:
    """`place` and the columns of the table that are wanted, as `v0`, `v1`, …

    A table has no order: the place comes from the values of the row, as a hash of as many bits as
    a position has. Rows that are equal in all these columns have one place; the same row has it in
    every run. That two events of one user and time share a place by chance is one in 10^12.
    """
    rows = spark.table(table.read_path)
    wanted = _wanted(table, columns)
    values = rows.select(
        *[_value(table, name).alias(f"v{index}") for index, name in enumerate(wanted)]
    )
    is_map = {field.name: isinstance(field.dataType, MapType) for field in values.schema.fields}
    hashed = [F.to_json(name) if is_map[name] else F.col(name) for name in values.columns]
    place = F.xxhash64(*hashed).bitwiseAND(F.lit((1 << POSITION_BITS) - 1))
    return values.select(place.alias("place"), *values.columns)


def typed_values(rows: DataFrame, file: InputFile, columns: dict[str, str]) -> DataFrame:
    """`place`, `line`, `reason` and a column of its own type for each of ours.

    `rows` has `place` and the values of one of the functions above; `file` is one of theirs.
    """
    values = {name: F.col(f"v{index}") for index, name in enumerate(_wanted(file, columns))}
    missing = F.lit(None).cast("string")
    return rows.select(
        "place",
        F.to_json(F.struct(*[value.alias(name) for name, value in values.items()])).alias("line"),
        F.lit(None).cast("string").alias("reason"),
        *[values.get(column, missing).alias(name) for name, column in columns.items()],
    )


def _wanted(file: InputFile, columns: dict[str, str]) -> list[str]:
    """The file's columns that are wanted and there, each once."""
    return [column for column in dict.fromkeys(columns.values()) if file.has(column)]


def _value(file: InputFile, column: str) -> Column:
    """A column, or a field within one."""
    if column in file.columns:
        return _quoted(column)
    first, *fields = column.split(".")
    value = _quoted(first)
    for field in fields:
        value = value.getField(field)
    return value


def _micros(column: str) -> Column:
    """The timestamp of a column of nanoseconds, in whole numbers all the way."""
    return F.timestamp_micros(F.call_function("div", _quoted(column), F.lit(1000)))


def _quoted(column: str) -> Column:
    """A column by a name that may hold dots or blanks."""
    return F.col(f"`{column.replace('`', '``')}`")
