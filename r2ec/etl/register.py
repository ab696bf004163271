"""The warehouse's tables made known to Spark's catalog, as external tables over the same files."""

from collections.abc import Iterable

from pyspark.sql import SparkSession
from pyspark.sql.types import DateType, StringType, StructField, StructType

from r2ec import schemas
from r2ec.errors import UsageError
from r2ec.etl.tables import spark_schema
from r2ec.storage import Warehouse

_TABLES = {
    table.name: table
    for table in (schemas.CATALOG, schemas.SEQUENCES, schemas.HISTORIES, schemas.QUARANTINE)
}


def register(
    spark: SparkSession, warehouse: Warehouse, database: str, table_names: Iterable[str]
) -> None:
    """Register tables in a database, which is made if need be, with the partitions they have now.

    A table that is registered already keeps its place and gets its partitions refreshed; one that
    no partition was ever written of is left out. Raises what `check_names` does.
    """
    check_names(spark, warehouse, database, table_names)
    spark.sql(f"CREATE DATABASE IF NOT EXISTS {_quoted(database)}")
    for name in table_names:
        if warehouse.exists(name):
            _register_table(spark, warehouse, database, _TABLES[name])


def check_names(
    spark: SparkSession, warehouse: Warehouse, database: str, table_names: Iterable[str]
) -> None:
    """Raise UsageError when a name is that of a table somewhere else; nothing of it is changed."""
    for name in table_names:
        full_name = f"{_quoted(database)}.{_quoted(name)}"
        if spark.catalog.tableExists(full_name):
            _check_location(spark, full_name, warehouse.uri(name))


def _register_table(
    spark: SparkSession, warehouse: Warehouse, database: str, table: schemas.Table
) -> None:
    name = f"{_quoted(database)}.{_quoted(table.name)}"
    location = warehouse.uri(table.name)
    if not spark.catalog.tableExists(name):
        columns = ", ".join(
            f"{_quoted(field.name)} {field.dataType.simpleString()}" for field in _columns(table)
        )
        partitions = ", ".join(map(_quoted, table.partition_by))
        spark.sql(
            f"CREATE TABLE {name} ({columns}) USING parquet PARTITIONED BY ({partitions}) "
            f"LOCATION {_text(location)}"
        )
    spark.sql(f"MSCK REPAIR TABLE {name} SYNC PARTITIONS")
    spark.catalog.refreshTable(name)


def _check_location(spark: SparkSession, name: str, location: str) -> None:
    described = spark.sql(f"DESCRIBE TABLE EXTENDED {name}").collect()
    found = {row["col_name"]: row["data_type"] for row in described}
    there = str(found.get("Location", ""))
    if _plain(there) != _plain(location):
        raise UsageError(
            f"--register: {name} is a table at {there or 'no location'}, not at {location}; "
            "give another database, or drop that table"
        )


def _columns(table: schemas.Table) -> StructType:
    """The table's columns, those of the partitions last."""
    kinds = {name: DateType() for name in ("date", "version")}
    partitions = [StructField(name, kinds.get(name, StringType())) for name in table.partition_by]
    return StructType([*spark_schema(table).fields, *partitions])


def _plain(address: str) -> str:
    scheme, colon, path = address.rpartition(":")
    return f"{scheme or 'file'}:/{path.strip('/')}" if colon else f"file:/{address.strip('/')}"


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
