"""`r2ec-cli sample-data`: raw logs to try everything on."""

from pathlib import Path

import click


@click.command(epilog="Example: r2ec-cli sample-data --events 20000 --seed 1 shop")
@click.option(
    "--events",
    type=click.IntRange(min=1),
    default=20_000,
    show_default=True,
    help="Purchases in the log; users and items grow with them.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same bytes.")
@click.argument("out", type=click.Path(path_type=Path))
def sample_data(events: int, seed: int, out: Path) -> None:
    """Write a synthetic shop into the folder OUT.

    A ratings CSV.gz and a metadata JSONL.gz in the Amazon-Reviews-2023 layout, with a stated share
    of dirt, and a README.txt that says what is in them. Nothing in it is real.
    """
    from r2ec.sample_shop.files import write_sample_shop

    counts = write_sample_shop(events, seed, out)
    click.echo(
        f"{out}: {counts['events']:,} events of {counts['users']:,} users, "
        f"{counts['items']:,} items (synthetic)"
    )
