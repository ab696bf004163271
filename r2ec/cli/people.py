"""`sql` and `show`: the tables, for people."""

import click

from r2ec.cli.completion import complete_sql_name
from r2ec.cli.options import date_option, existing_warehouse, warehouse_option


@click.command(
    epilog="Example: r2ec-cli sql user_recommendations --param date=2024-05-31 --param user_id=U1"
)
@warehouse_option
@click.argument("file", required=False, shell_complete=complete_sql_name)
@click.option("-q", "--query", metavar="TEXT", help="The query itself, instead of a file.")
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Value of a parameter, :NAME in the query; may be repeated.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="How the rows are written.",
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    envvar="R2EC_SQL_OUTPUT",  # R2EC_OUTPUT alone is where a model goes
    help="Write the rows to this file.  [default: stdout]",
)
def sql(
    warehouse: str,
    file: str | None,
    query: str | None,
    params: tuple[str, ...],
    output_format: str,
    output: str | None,
) -> None:
    """Run one query over the warehouse's tables and views.

    FILE is a .sql file, or the name of one in sql/queries, sql/audits or sql/views. The engine is
    DuckDB; it can only read, and nothing but the warehouse.
    """
    from r2ec import sql_files
    from r2ec.cli.published import unpublished_note
    from r2ec.cli.query_result import check_output, write_result
    from r2ec.errors import UsageError
    from r2ec.warehouse_views import run_query, with_views

    if (file is None) == (query is None):
        raise UsageError("give either a FILE or a query with -q")
    asked = (
        sql_files.find_sql(file)
        if file is not None
        else sql_files.parse_sql("query", "-q", query or "")
    )
    tables = existing_warehouse(warehouse)
    check_output(output, output_format, tables)
    values = _values(params)
    if asked.source.startswith("sql/views/"):
        asked = sql_files.parse_sql(asked.name, asked.source, f"SELECT * FROM {asked.name}")
    rows = with_views(tables, lambda views: run_query(views, asked, values))
    note = unpublished_note(asked, values, tables)
    if note is not None:
        click.echo(note, err=True)
    write_result(rows, output_format, output)


def _values(params: tuple[str, ...]) -> dict[str, str]:
    values: dict[str, str] = {}
    for param in params:
        name, equals, value = param.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{param!r}: write it as NAME=VALUE", param_hint="--param")
        if name in values:
            raise click.BadParameter(f"{name} is given twice", param_hint="--param")
        values[name] = value
    return values


@click.command(epilog="Example: r2ec-cli show --warehouse warehouse --date 2024-05-31 U1")
@warehouse_option
@date_option
@click.option(
    "--top-k", type=click.IntRange(min=1), default=10, show_default=True, help="Items shown."
)
@click.argument("user")
def show(warehouse: str, date: str, top_k: int, user: str) -> None:
    """One user's history, the reasoning, and the items recommended on a published date."""
    from r2ec.cli.user_page import load_user_page, print_user_page

    print_user_page(load_user_page(existing_warehouse(warehouse), date, user, top_k))
