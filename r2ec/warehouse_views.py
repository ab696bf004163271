"""The warehouse as people query it: its tables and the views of `sql/views`, in DuckDB.

Only what is published is there: of recommendations and reasoning, the runs that `runs` points to.
Files are read through pyarrow, so a local and an object store warehouse are one thing; the
connection itself can open nothing.

A date may be replaced while somebody reads. So `runs` is read once, into memory, files are listed
by it, and what was listed counts only if `runs` is still the same after it: a run is removed only
after another has taken its place. `with_views` asks again where a file went away during a query.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds

from r2ec import schemas, sql_files
from r2ec.errors import UsageError
from r2ec.storage import Warehouse

if TYPE_CHECKING:
    import duckdb

Answer = TypeVar("Answer")

DAY_COLUMNS = ("date", "version")
OF_A_RUN = ("recommendations", "reasoning")


def partition_fields(table: schemas.Table) -> list[pa.Field]:
    """The partition columns as queries see them: days are dates, the others strings."""
    return [
        pa.field(name, pa.date32() if name in DAY_COLUMNS else pa.string())
        for name in table.partition_by
    ]


def visible_files(
    warehouse: Warehouse, table: schemas.Table, runs: Mapping[str, str] | None = None
) -> list[str]:
    """The files of a table that queries may see, sorted, relative to the warehouse's root.

    `runs` is what `published_runs` gave; it is asked where they are not given.
    """
    if table.name not in OF_A_RUN:
        return warehouse.list_files(table.name)
    return [
        path
        for date, run_id in (published_runs(warehouse) if runs is None else runs).items()
        for path in warehouse.list_files(table.name, f"date={date}", f"run_id={run_id}")
    ]


def published_runs(warehouse: Warehouse) -> dict[str, str]:
    """The run that is published for each date, by date."""
    return _named_by(runs_table(warehouse))


def runs_table(warehouse: Warehouse) -> pa.Table:
    """`runs` with its partition column, in memory, by date."""
    tables = [
        warehouse.read_table(schemas.RUNS, date=date).append_column(
            pa.field("date", pa.date32()), pa.array([dt.date.fromisoformat(date)], pa.date32())
        )
        for date in warehouse.partitions("runs", "date")
    ]
    schema = pa.schema([*schemas.RUNS.schema, *partition_fields(schemas.RUNS)])
    return pa.concat_tables(tables) if tables else schema.empty_table()


def table_source(
    warehouse: Warehouse, table: schemas.Table, runs: Mapping[str, str] | None = None
) -> "ds.Dataset | pa.Table":
    """The table with its partition columns, to be scanned; empty and typed when nothing is there.

    Filters on partition columns prune files, those on others prune row groups.
    """
    partitions = partition_fields(table)
    schema = pa.schema([*(field.with_nullable(True) for field in table.schema), *partitions])
    paths = visible_files(warehouse, table, runs)
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


def consistent_sources(warehouse: Warehouse) -> dict[str, "ds.Dataset | pa.Table"]:
    """All tables at one moment: `runs` in memory, of each date the files of the run it names."""
    while True:
        runs = runs_table(warehouse)
        named = _named_by(runs)
        sources = {
            name: runs if table is schemas.RUNS else table_source(warehouse, table, named)
            for name, table in schemas.TABLES.items()
        }
        if published_runs(warehouse) == named:
            return sources


def _named_by(runs: pa.Table) -> dict[str, str]:
    """Date -> run, as `published_runs` gives them, of the rows of `runs`."""
    days = (day.isoformat() for day in runs["date"].to_pylist())
    return dict(sorted(zip(days, runs["run_id"].to_pylist(), strict=True)))


def with_views(
    warehouse: Warehouse, ask: "Callable[[duckdb.DuckDBPyConnection], Answer]"
) -> Answer:
    """What `ask` makes of the views; of new ones where a run that it read was replaced."""
    while True:
        with open_views(warehouse) as views:
            seen = _named_by(views.sql("SELECT date, run_id FROM runs").to_arrow_table())
            try:
                return ask(views)
            except (UsageError, OSError):
                if published_runs(warehouse) == seen:
                    raise


def open_views(warehouse: Warehouse) -> "duckdb.DuckDBPyConnection":
    """A DuckDB connection with every table and view of the warehouse, that reads nothing else.

    It has no access to files or the network, its settings are locked, and times are UTC.
    """
    import duckdb

    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    for name, source in consistent_sources(warehouse).items():
        connection.register(name, source)
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
    except duckdb.PermissionException as error:
        remedy = "a query reads the warehouse's tables and views, and nothing else"
        raise UsageError(f"{file.source}: {error}; {remedy}") from error
    except duckdb.Error as error:
        raise UsageError(f"{file.source}: {error}") from error
    return result if isinstance(result, pa.Table) else pa.table(result)
