"""Arrow batches through a Python function, on executors that have no pandas."""

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.pandas import functions
from pyspark.util import PythonEvalType

ArrowTask = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def map_in_arrow(rows: DataFrame, task: ArrowTask, schema: str) -> DataFrame:
    """`DataFrame.mapInArrow`: each partition's batches through `task`, into rows of `schema`.

    The method itself insists on pandas, which it does not use; without pandas the same plan is made
    here from the two calls that it consists of.
    """
    if find_spec("pandas") is not None:
        return rows.mapInArrow(task, schema)
    make_udf: Any = functions.vectorized_udf  # type: ignore[attr-defined]
    udf = make_udf(task, schema, PythonEvalType.SQL_MAP_ARROW_ITER_UDF)
    columns: Any = udf(*[rows[column] for column in rows.columns])
    frame: Any = rows
    return DataFrame(frame._jdf.mapInArrow(columns._jc, False, None), rows.sparkSession)
