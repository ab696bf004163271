"""Lines of CSV and JSON files: read as text and taken apart here.

So a row that cannot be parsed is still at hand as it was written.
"""

import re

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from r2ec.etl.files import InputFile
from r2ec.etl.python_lines import as_json

_ROW_BITS = 33  # monotonically_increasing_id keeps the row's number in its partition here


def read_lines(spark: SparkSession, files: list[InputFile]) -> DataFrame:
    """`value`, the `position` of each line in its file, and the file's `path`."""
    in_partition = F.monotonically_increasing_id().bitwiseAND(F.lit((1 << _ROW_BITS) - 1))
    start = F.col("_metadata.file_block_start")
    return spark.read.text([file.read_path for file in files]).select(
        F.col("value"),
        (start + in_partition).alias("position"),
        F.col("_metadata.file_path").alias("path"),
    )


def parse_lines(lines: DataFrame, file: InputFile, columns: dict[str, str]) -> DataFrame:
    """`place`, `line`, `reason` and a text per column from `place`, `position` and `value`.

    `file` is one of those that the lines are of: they have its format and columns. Blank lines and
    headers are no rows.
    """
    is_csv = file.format == "csv"
    if is_csv and file.has_header:
        lines = lines.where(F.col("position") > 0)
    lines = lines.where(F.trim(F.col("value")) != "")
    if file.encoding != "utf-8":
        lines = lines.withColumn("value", F.decode(F.col("value").cast("binary"), file.encoding))
    value = as_json("value") if file.format == "pydict" else F.col("value")
    rows = lines.select(
        F.col("place"),
        F.expr("make_valid_utf8(value)").alias("line"),
        _is_readable(file).alias("readable"),
        (_parsed_csv(file) if is_csv else _parsed_json(value, columns)).alias("parsed"),
    )
    row = F.col("parsed") if is_csv else F.get("parsed", F.lit(0))
    if is_csv:
        broken = row["_broken"].isNotNull() | _is_part_of_record(F.col("line"), file)
    else:
        broken = (_size("parsed") != 1) | row.isNull()
    return rows.select(
        "place",
        "line",
        F.when(~F.col("readable"), "bad_encoding").when(broken, "broken_row").alias("reason"),
        *[_field(row, file, column).alias(name) for name, column in columns.items()],
    )


def read_records(spark: SparkSession, files: list[InputFile]) -> DataFrame:
    """The struct `parsed` of each record of CSV files whose values may go over several lines.

    A file is read by one task: `position` is the record's number in it, `path` the file's.
    """
    options = _csv_options(files[0]) | {
        "multiLine": "true",
        "header": str(files[0].has_header).lower(),
        "encoding": files[0].encoding,
    }
    reader = spark.read.schema(_csv_schema(files[0])).options(**options)
    records = reader.csv([file.read_path for file in files])
    return records.select(
        F.struct(*records.columns).alias("parsed"),
        F.monotonically_increasing_id().bitwiseAND(F.lit((1 << _ROW_BITS) - 1)).alias("position"),
        F.col("_metadata.file_path").alias("path"),
    )


def record_values(records: DataFrame, file: InputFile, columns: dict[str, str]) -> DataFrame:
    """`place`, `line`, `reason` and a text per column from `place` and `parsed`.

    The line of a record is written anew from its values, save that of a broken one.
    """
    row = F.col("parsed")
    options = _csv_marks(file) | {"ignoreLeadingWhiteSpace": "false"}
    line = F.coalesce(row["_broken"], F.to_csv(row.dropFields("_broken"), options))
    return records.select(
        "place",
        line.alias("line"),
        F.when(line.contains("\ufffd"), "bad_encoding")
        .when(row["_broken"].isNotNull(), "broken_row")
        .alias("reason"),
        *[_field(row, file, column).alias(name) for name, column in columns.items()],
    )


def _is_readable(file: InputFile) -> Column:
    """Whether the line is of the file's encoding; decoding leaves a mark where it is not."""
    if file.encoding == "utf-8":
        return F.expr("is_valid_utf8(value)")
    return ~F.col("value").contains("\ufffd")


def _is_part_of_record(line: Column, file: InputFile) -> Column:
    """Does a quoted value begin on this line and end on another, or the other way round?

    The quotes of a whole record come in pairs. An inch mark within a value may stand alone.
    """
    if not file.quote:
        return F.lit(False)
    num_quotes = F.length(line) - F.length(F.replace(line, F.lit(file.quote), F.lit("")))
    quote, delimiter = re.escape(file.quote), re.escape(file.delimiter)
    edge = f"(?:^|{delimiter}){quote}|{quote}(?:{delimiter}|\r?$)"
    return (num_quotes % 2 == 1) & line.rlike(edge)


def _parsed_csv(file: InputFile) -> Column:
    """A struct `c0, c1, …` of the line's values; `_broken` is set where their number is wrong."""
    return F.from_csv(F.col("value"), _csv_schema(file), _csv_options(file))


def _csv_schema(file: InputFile) -> str:
    names = [*(f"c{index}" for index in range(len(file.columns))), "_broken"]
    return ", ".join(f"{name} string" for name in names)


def _csv_options(file: InputFile) -> dict[str, str]:
    options = {"columnNameOfCorruptRecord": "_broken", "maxCharsPerColumn": "-1"}
    return _csv_marks(file) | options


def _csv_marks(file: InputFile) -> dict[str, str]:
    return {"sep": file.delimiter, "quote": file.quote, "escape": file.quote}


def _parsed_json(value: Column, columns: dict[str, str]) -> Column:
    """The line as the only element of an array: text after the object is then an error too."""
    whole = columns.values()
    wanted = dict.fromkeys([*whole, *(column.split(".")[0] for column in whole)])
    row = StructType([StructField(column, StringType()) for column in wanted])
    return F.from_json(F.concat(F.lit("["), value, F.lit("]")), ArrayType(row))


def _field(row: Column, file: InputFile, column: str) -> Column:
    if file.format != "csv":
        return _json_value(row, column)
    if column in file.columns:
        return row[f"c{file.columns.index(column)}"]
    return F.lit(None).cast("string")


def _json_value(row: Column, column: str) -> Column:
    """The value of a key, else that of the path `key.field`; objects and lists as JSON."""
    first, *fields = column.split(".")
    if not fields:
        return row[column]
    path = "".join(f"['{field}']" for field in fields)
    return F.coalesce(row.getField(column), F.get_json_object(row.getField(first), f"${path}"))


def _size(array: str) -> Column:
    return F.coalesce(F.size(array), F.lit(0))
