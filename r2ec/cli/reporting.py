"""`report`: a published date as one HTML page."""

from pathlib import Path

import click

from r2ec.cli.options import date_option, existing_warehouse, warehouse_option


@click.command(epilog="Example: r2ec-cli report --date 2024-05-31 --model model")
@warehouse_option
@date_option
@click.option(
    "--model",
    "model_dir",
    metavar="DIR",
    help="Directory of the model that scored the date: adds the curves of its training.",
)
@click.option(
    "--training",
    metavar="DIR",
    help="Folder with the curves of the training.  [default: that of --model, with .run]",
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="R2EC_REPORT_OUTPUT",  # R2EC_OUTPUT alone is where a model goes
    help="Where the page goes.  [default: report-DAY.html]",
)
@click.option(
    "--examples",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help="How many users to look at; fewer where the page would grow beyond 2 MB.",
)
@click.option("--user", "users", multiple=True, metavar="ID", help="This user too; repeatable.")
@click.option(
    "--top-k", type=click.IntRange(min=1), default=10, show_default=True, help="Items of a list."
)
@click.option(
    "--days",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="How long after the date a purchase counts as bought later.",
)
def report(
    warehouse: str,
    date: str,
    model_dir: str | None,
    training: str | None,
    output: Path | None,
    examples: int,
    users: tuple[str, ...],
    top_k: int,
    days: int,
) -> None:
    """Write one HTML page about a published date: figures, curves, cost, and users to look at.

    The page needs no network and no server: send it, print it, open it on a phone.
    """
    from r2ec.report.examples import ExampleSettings
    from r2ec.report.page import build_page, published_model, write_page
    from r2ec.report.training import find_training

    place = existing_warehouse(warehouse)
    curves = find_training(model_dir, training, published_model(place, date))
    settings = ExampleSettings(date=date, days=days, count=examples, top_k=top_k, named=users)
    file = output or Path(f"report-{date}.html")
    num_bytes = write_page(build_page(place, settings, curves), file)
    click.echo(f"{file}: {num_bytes / 1e6:.1f} MB, {date}")
