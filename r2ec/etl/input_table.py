"""What is known of a table of Spark's catalog before its rows are read."""

from collections.abc import Iterator
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from r2ec.errors import NotReadyError

# No table is so large: Spark says such numbers where it cannot tell.
_UNKNOWN_BYTES = 1 << 60


def table_facts(
    spark: SparkSession, name: str, option: str
) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """The table's columns, the fields within them, and its bytes (0 where nobody knows).

    Raises NotReadyError when there is no such table; `option` names the option to blame.
    """
    try:
        table = spark.table(name)
        return tuple(table.columns), tuple(_paths(table.schema)), _num_bytes(spark, table)
    except PySparkException as error:
        cause = next(filter(None, str(error).splitlines()), "")
        raise NotReadyError(
            f"{option}-table {name}: Spark's catalog has no such table: {cause}"
        ) from error


def _paths(row: StructType, above: str = "") -> Iterator[str]:
    """The fields of the structs within a struct, as `column.field`."""
    for field in row.fields:
        if above:
            yield f"{above}{field.name}"
        if isinstance(field.dataType, StructType):
            yield from _paths(field.dataType, f"{above}{field.name}.")


def _num_bytes(spark: SparkSession, table: DataFrame) -> int:
    """As Spark's statistics have it, else the sum of the files below the table."""
    frame: Any = table
    told = int(str(frame._jdf.queryExecution().optimizedPlan().stats().sizeInBytes()))
    if told < _UNKNOWN_BYTES:
        return told
    jvm: Any = spark.sparkContext._jvm
    context: Any = spark.sparkContext
    conf = context._jsc.hadoopConfiguration()
    paths = [jvm.org.apache.hadoop.fs.Path(jvm.java.net.URI(uri)) for uri in table.inputFiles()]
    return sum(path.getFileSystem(conf).getFileStatus(path).getLen() for path in paths)
