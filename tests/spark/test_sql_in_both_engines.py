import math

import pytest
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import DateType, StringType, StructField

from r2ec import schemas, sql_files
from r2ec.etl.views import open_spark_views, run_spark_query
from r2ec.warehouse_views import DAY_COLUMNS, open_views, partition_fields, run_query
from tests.factories.warehouse import make_warehouse

pytestmark = pytest.mark.spark

FOLDERS = ("audits", "audits/strict_time")  # the queries: test_queries_in_spark.py
FILES = [file for folder in FOLDERS for file in sql_files.read_folder(folder)]
RELATIONS = [*schemas.TABLES, *(file.name for file in sql_files.read_folder("views"))]


@pytest.fixture(scope="module")
def engines(spark, tmp_path_factory):
    """Both engines over one warehouse: `(spark session, DuckDB connection)`."""
    warehouse = make_warehouse(tmp_path_factory.mktemp("warehouse"))
    open_spark_views(spark, warehouse)
    yield spark, open_views(warehouse)
    for name in RELATIONS:
        spark.catalog.dropTempView(name)


def both_results(engines, file):
    spark, views = engines
    in_spark = run_spark_query(spark, file, {}).toArrow()
    return in_spark, run_query(views, file, {})


def plain(value):
    """A value that compares: floats by nine digits, lists by their elements."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.9g}")
    return [plain(part) for part in value] if isinstance(value, list) else value


def rows_of(table):
    return [tuple(plain(value) for value in row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.source)
def test_spark_and_duckdb_give_the_same_rows(engines, file):
    in_spark, in_duckdb = both_results(engines, file)
    assert in_spark.schema.names == in_duckdb.schema.names
    assert rows_of(in_spark) == rows_of(in_duckdb) == []


@pytest.mark.parametrize("name", RELATIONS)
def test_every_table_and_view_has_the_same_rows_in_both(engines, name):
    file = sql_files.parse_sql(name, name, f"SELECT * FROM {name}")
    in_spark, in_duckdb = both_results(engines, file)
    assert in_spark.schema.names == in_duckdb.schema.names
    assert sorted(map(repr, rows_of(in_spark))) == sorted(map(repr, rows_of(in_duckdb)))


@pytest.mark.parametrize("table", schemas.TABLES.values(), ids=lambda table: table.name)
def test_spark_schema_files_say_what_schemas_py_says(spark, table):
    file = sql_files.sql_folder() / "schema" / f"{table.name}.sql"
    (statement,) = sql_files.statements(file.read_text(encoding="utf-8"))
    spark.sql("CREATE DATABASE IF NOT EXISTS schema_files")
    spark.sql("USE schema_files")
    try:
        spark.sql(statement)
        found = spark.table(f"schema_files.{table.name}").schema
        columns = spark.catalog.listColumns(f"schema_files.{table.name}")
        partitions = [c.name for c in columns if c.isPartition]
    finally:
        spark.sql("USE default")
        spark.sql("DROP DATABASE schema_files CASCADE")
    wanted = from_arrow_schema(table.schema)
    for field in partition_fields(table):
        kind = DateType() if field.name in DAY_COLUMNS else StringType()
        wanted = wanted.add(StructField(field.name, kind, True))
    # Spark reads every Parquet column as nullable; NOT NULL stands in the file all the same.
    assert [(f.name, f.dataType) for f in found] == [(f.name, f.dataType) for f in wanted]
    assert partitions == list(table.partition_by)
    not_null = [line.split()[0] for line in statement.splitlines() if "NOT NULL" in line]
    assert not_null == [field.name for field in table.schema if not field.nullable]
