"""The warehouse's tables as Spark writes and reads them, held to `r2ec.schemas`."""

from contextlib import ExitStack

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from r2ec.schemas import Table


def spark_schema(table: Table, *partition_columns: str) -> StructType:
    """The table's columns as Spark types (all nullable: Parquet says no more), then partitions."""
    fields = [field.with_nullable(True) for field in table.schema]
    days = [pa.field(name, pa.date32()) for name in partition_columns if name != "split"]
    names = [pa.field(name, pa.string()) for name in partition_columns if name == "split"]
    return from_arrow_schema(pa.schema([*fields, *names, *days]))


def conform(rows: DataFrame, table: Table, *partition_columns: str) -> DataFrame:
    """Exactly the table's columns, in order and of its types, then the partition columns."""
    fields = spark_schema(table).fields
    columns = [F.col(field.name).cast(field.dataType).alias(field.name) for field in fields]
    return rows.select(*columns, *partition_columns)


def read_table(
    spark: SparkSession, table: Table, address: str, *partition_columns: str
) -> DataFrame:
    """A staged or published table (or one partition) without a look into its files."""
    return spark.read.schema(spark_schema(table, *partition_columns)).parquet(address)


def keep(stack: ExitStack, rows: DataFrame) -> DataFrame:
    """Hold rows in memory, and on disk beyond it, until the stack closes."""
    kept = rows.persist(StorageLevel.MEMORY_AND_DISK)
    stack.callback(kept.unpersist)
    return kept
