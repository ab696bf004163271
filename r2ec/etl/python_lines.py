"""Lines that are Python dictionaries, as some older dumps have them, turned into JSON."""

import ast
import json
from typing import Any

import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.types import StringType

_LARGEST_LINE = 1 << 22


def as_json(column: str) -> Column:
    """The column's lines as JSON; null where a line is no Python dictionary."""
    # The kind of function is read off its type hints; the stubs want it named as well.
    make_udf: Any = arrow_udf

    def convert(lines: pa.Array) -> pa.Array:
        return pa.array([json_line(line) for line in lines.to_pylist()], pa.string())

    converted: Column = make_udf(convert, StringType())(column)
    return converted


def json_line(line: str) -> str | None:
    """One line as JSON; only literals are read, nothing is run."""
    if len(line) > _LARGEST_LINE:
        return None
    try:
        row = ast.literal_eval(line.strip())
        return json.dumps(row, ensure_ascii=False) if isinstance(row, dict) else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
