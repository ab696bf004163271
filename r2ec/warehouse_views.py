"""The warehouse as people query it: its tables and the views of `sql/views`, in DuckDB.

Only what is published is there: of recommendations and reasoning, the runs that `runs` points to.
Files are read through pyarrow, so a local and an object store warehouse are one thing; the
connection itself can open nothing.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds

from r2ec import schemas, sql_files
from r2ec.errors import UsageError
from r2ec.storage import Warehouse

if TYPE_CHECKING:
    import duckdb

DAY_COLUMNS = ("date", "version")
OF_A_RUN = ("recommendations", "reasoning")


def partition_fields(table: schemas.Table) -> list[pa.Field]:
    """The partition columns as queries see them: days are dates, the others strings."""
    return [
        pa.field(name, pa.date32() if name in DAY_COLUMNS else pa.string())
        for name in table.partition_by
    ]


def visible_files(warehouse: Warehouse, table: schemas.Table) -> list[str]:
    """The files of a table that queries may see, sorted, relative to the warehouse's root."""
    if table.name not in OF_A_RUN:
        return warehouse.list_files(table.name)
    return [
        path
        for date, run_id in published_runs(warehouse).items()
        for path in warehouse.list_files(table.name, f"date={date}", f"run_id={run_id}")
    ]


def published_runs(warehouse: Warehouse) -> dict[str, str]:
    """The run that is published for each date, by date."""
    return {
        date: str(
            warehouse.read_table(schemas.RUNS, columns=["run_id"], date=date)["run_id"][0].as_py()
        )
        for date in warehouse.partitions("runs", "date")
    }


def table_source(warehouse: Warehouse, table: schemas.Table) -> "ds.Dataset | pa.Table":
    """The table with its partition columns, to be scanned; empty and typed when nothing is there.

    Filters on partition columns prune files, those on others prune row groups.
    """
    partitions = partition_fields(table)
    schema = pa.schema([*(field.with_nullable(True) for field in table.schema), *partitions])
    paths = visible_files(warehouse, table)
    if not paths:
        return schema.empty_table()
    return ds.dataset(
        [warehouse.path(path) for path in paths],
        schema=schema,
        format="parquet",
        filesystem=warehouse.filesystem,
        partitioning=ds.partitioning(pa.schema(partitions), flavor="hive"),
        partition_base_dir=warehouse.path(table.name),
    )


def open_views(warehouse: Warehouse) -> "duckdb.DuckDBPyConnection":
    """A DuckDB connection with every table and view of the warehouse, that reads nothing else.

    It has no access to files or the network, its settings are locked, and times are UTC.
    """
    import duckdb

    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    for table in schemas.TABLES.values():
        connection.register(table.name, table_source(warehouse, table))
    for folder in ("duckdb", "views"):
        for file in sql_files.read_folder(folder):
            connection.execute(sql_files.to_temporary_view(file.text))
    for setting in (
        "python_enable_replacements = false",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")
    return connection


def run_query(
    connection: "duckdb.DuckDBPyConnection", file: sql_files.SqlFile, values: Mapping[str, str]
) -> pa.Table:
    """The result of the one query in `file`, its parameters bound to `values` (strings).

    Raises UsageError when it is not exactly one query, a parameter is missing or unknown, or
    DuckDB refuses it.
    """
    import duckdb

    bound = file.bind(values)
    try:
        found = connection.extract_statements(sql_files.to_duckdb(file.text))
        if len(found) != 1 or found[0].type != duckdb.StatementType.SELECT:
            kinds = ", ".join(statement.type.name for statement in found) or "nothing"
            raise UsageError(f"{file.source}: give one query (SELECT …); found: {kinds}")
        result = connection.sql(found[0].query, params=bound or None).to_arrow_table()
    except duckdb.Error as error:
        raise UsageError(f"{file.source}: {error}") from error
    return result if isinstance(result, pa.Table) else pa.table(result)
