"""`audit`: the queries of `sql/audits` over the warehouse; each must return no row."""

import click

from r2ec.cli.options import existing_warehouse, warehouse_option

SHOWN_ROWS = 3


@click.command(epilog="Example: r2ec-cli audit --warehouse warehouse")
@warehouse_option
def audit(warehouse: str) -> None:
    """Run every audit of sql/audits; exit code 4 if one finds a row.

    An audit is a query that must return nothing: no history event after its target, no time in two
    splits, dense item indices, and so on.
    """
    from r2ec import sql_files
    from r2ec.errors import GateError
    from r2ec.warehouse_views import open_views, run_query

    views = open_views(existing_warehouse(warehouse))
    failed = []
    for file in sql_files.read_folder("audits"):
        rows = run_query(views, file, {})
        click.echo(f"{'ok    ' if rows.num_rows == 0 else 'FAILED'} {file.name}")
        if rows.num_rows:
            examples = "; ".join(str(row) for row in rows.slice(0, SHOWN_ROWS).to_pylist())
            failed.append(f"{file.source} found {rows.num_rows:,} rows, such as {examples}")
    if failed:
        raise GateError("\n".join(failed))
