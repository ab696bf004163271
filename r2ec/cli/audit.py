"""`audit`: the queries of `sql/audits` over the warehouse; each must return no row."""

import click

from r2ec.cli.options import existing_warehouse, warehouse_option

SHOWN_ROWS = 3


@click.command(epilog="Example: r2ec-cli audit --warehouse warehouse")
@warehouse_option
@click.option(
    "--strict-time",
    is_flag=True,
    help="Also: no history has an event at its target's time. For tables built with this option.",
)
def audit(warehouse: str, strict_time: bool) -> None:
    """Run every audit of sql/audits, and count the rows again.

    Exit code 4 says that something is wrong.

    An audit is a query that must return nothing: no history event after its target, no time in two
    splits, dense item indices, and so on. The rows of each file that a job wrote are held against
    the number it noted.
    """
    from r2ec import sql_files
    from r2ec.errors import GateError, NotReadyError, UsageError
    from r2ec.row_counts import check_row_counts
    from r2ec.warehouse_views import open_views, run_query

    root = existing_warehouse(warehouse)
    if not any(root.exists(table) for table in ("catalog", "sequences", "histories")):
        raise NotReadyError(
            f"warehouse {warehouse}: no table to audit; spark-submit jobs/build_catalog.py builds "
            "the first one"
        )
    failed = check_row_counts(root)
    are_counts_wrong = bool(failed)
    click.echo(f"{'FAILED' if failed else 'ok    '} row counts")
    views = open_views(root)
    strict = sql_files.read_folder("audits/strict_time") if strict_time else []
    for file in [*sql_files.read_folder("audits"), *strict]:
        try:
            rows = run_query(views, file, {})
        except UsageError:
            # It stumbled over a file that cannot be read: that one is named already.
            if not are_counts_wrong:
                raise
            click.echo(f"FAILED {file.name}")
            continue
        click.echo(f"{'ok    ' if rows.num_rows == 0 else 'FAILED'} {file.name}")
        if rows.num_rows:
            examples = "; ".join(str(row) for row in rows.slice(0, SHOWN_ROWS).to_pylist())
            failed.append(f"{file.source} found {rows.num_rows:,} rows, such as {examples}")
    if failed:
        raise GateError("\n".join(failed))
