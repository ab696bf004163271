"""The warehouse as people query it: its tables and the views of `sql/views`, in DuckDB.

Only what is published is there: of recommendations and reasoning, the runs that `runs` points to.
Files are read through pyarrow, so a local and an object store warehouse are one thing; the
connection itself can open nothing.

A date may be replaced while somebody reads. So `runs` is read once, into memory, and a query lists
files by it. What was listed counts only if `runs` is still the same after it: a run is removed only
after another has taken its place. `with_views` asks again where a run or file went away meanwhile.
"""

import datetime as dt
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from r2ec import schemas, sql_files
from r2ec.errors import NotReadyError, UsageError
from r2ec.partitioned_table import PartitionedTable
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


def visible_files(warehouse: Warehouse, table: schemas.Table) -> list[str]:
    """The files of a table that queries may see, sorted, relative to the warehouse's root."""
    if table.name not in OF_A_RUN:
        return warehouse.list_files(table.name)
    return [
        path
        for date, run_id in published_runs(warehouse).items()
        for path in warehouse.list_files(table.name, f"date={date}", f"run_id={run_id}")
    ]


def published_runs(warehouse: Warehouse, dates: Collection[str] | None = None) -> dict[str, str]:
    """The run that is published for each date, by date; of these dates, or of all."""
    return _named_by(runs_table(warehouse, dates))


def runs_table(warehouse: Warehouse, dates: Collection[str] | None = None) -> pa.Table:
    """`runs` with its partition column, in memory, by date."""
    days = dates if dates is not None else warehouse.partitions("runs", "date")
    files = [f"runs/date={day}/run.parquet" for day in sorted(days)]
    fields = [field.with_nullable(True) for field in schemas.RUNS.schema]
    schema = pa.schema([*fields, *partition_fields(schemas.RUNS)])
    tables = [
        rows.append_column("date", pa.array([dt.date.fromisoformat(day)], pa.date32()))
        for day, rows in zip(sorted(days), warehouse.read_pointers(files), strict=True)
    ]
    return pa.concat_tables([schema.empty_table(), *tables], promote_options="default")


def consistent_sources(warehouse: Warehouse) -> dict[str, PartitionedTable | pa.Table]:
    """All tables at one moment: `runs` in memory, of each date the files of the run it names."""
    runs = runs_table(warehouse)
    named = _named_by(runs)
    return {
        name: runs if table is schemas.RUNS else _table_source(warehouse, table, named)
        for name, table in schemas.TABLES.items()
    }


def _table_source(
    warehouse: Warehouse, table: schemas.Table, runs: Mapping[str, str]
) -> PartitionedTable:
    folders_of_runs = {
        f"{table.name}/date={date}/run_id={run_id}": date for date, run_id in runs.items()
    }

    def find_folders() -> list[str]:
        if table.name in OF_A_RUN:
            return list(folders_of_runs)
        folders = [table.name]
        for column in table.partition_by:
            folders = [
                f"{folder}/{name}"
                for folder in folders
                for name in warehouse.list_folders(folder)
                if name.startswith(f"{column}=")
            ]
        return folders

    def confirm(folders: list[str]) -> None:
        if table.name in OF_A_RUN:
            dates = {folders_of_runs[folder] for folder in folders}
            if published_runs(warehouse, dates) != {date: runs[date] for date in dates}:
                raise NotReadyError("a date was published anew meanwhile: ask again")

    return PartitionedTable(warehouse, table.schema, partition_fields(table), find_folders, confirm)


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
