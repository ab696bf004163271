"""The warehouse as Spark SQL sees it: the same tables and views as in DuckDB."""

from collections.abc import Mapping

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from r2ec import schemas, sql_files
from r2ec.storage import Warehouse
from r2ec.warehouse_views import partition_fields, visible_files


def open_spark_views(spark: SparkSession, warehouse: Warehouse) -> None:
    """Register every table and view of the warehouse as a temporary view of the session.

    Only published runs are there, as in `warehouse_views.open_views`; absent tables are empty.
    """
    for table in schemas.TABLES.values():
        spark_table(spark, warehouse, table).createOrReplaceTempView(table.name)
    for file in sql_files.read_folder("views"):
        for statement in sql_files.statements(sql_files.to_temporary_view(file.text)):
            spark.sql(statement)


def spark_table(spark: SparkSession, warehouse: Warehouse, table: schemas.Table) -> DataFrame:
    """One table with its partition columns, of the files that queries may see."""
    fields = [*table.schema, *partition_fields(table)]
    schema = from_arrow_schema(pa.schema([field.with_nullable(True) for field in fields]))
    paths = [warehouse.uri(path) for path in visible_files(warehouse, table)]
    if not paths:
        return spark.createDataFrame([], schema)
    reader = spark.read.schema(schema).option("basePath", warehouse.uri(table.name))
    return reader.parquet(*paths)


def run_spark_query(
    spark: SparkSession, file: sql_files.SqlFile, values: Mapping[str, str]
) -> DataFrame:
    """The result of the one query in `file`, its parameters bound to `values` (strings).

    Raises UsageError for a missing or unknown parameter.
    """
    (statement,) = sql_files.statements(file.text)
    return spark.sql(statement, args=file.bind(values))
