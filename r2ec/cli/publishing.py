"""`publish`: the last step of scoring."""

import click

from r2ec.cli.options import date_option, price_option, warehouse_option


@click.command(epilog="Example: r2ec-cli publish --date 2024-05-31")
@date_option
@warehouse_option
@click.option("--run-id", metavar="RUN", help="Which run, where several are complete.")
@price_option
def publish(date: str, warehouse: str, run_id: str | None, price_per_hour: float | None) -> None:
    """Check a scored date and make it visible in one act.

    Every shard and every user must be there exactly once, as the manifests say. Readers see the
    run that was there before, or none, until the last moment; older runs of the date are removed.
    Started again after it was cut off, it goes on where it stopped.
    """
    from r2ec.infer.publish import publish as publish_run
    from r2ec.storage import Warehouse

    done = publish_run(Warehouse(warehouse), date, run_id, price_per_hour=price_per_hour)
    state = "was published already" if done.was_already else "is published"
    click.echo(
        f"{date}: run {done.run_id} {state}: {done.num_users:,} users, "
        f"{done.num_recommendations:,} recommendations, {done.num_errors:,} errors"
    )
