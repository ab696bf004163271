"""`r2ec-cli sample-data` and `download`: raw logs to try everything on."""

import re
from pathlib import Path

import click

from r2ec.errors import UsageError

# Where the data set's makers lay it out so; the copies on the Hugging Face hub lack the `.gz`.
BASE_URL = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"
RATINGS_PATH = "benchmark/0core/rating_only/{category}.csv.gz"
ITEMS_PATH = "raw/meta_categories/meta_{category}.jsonl.gz"


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


@click.command(
    epilog="Example: r2ec-cli download --base-url http://mirror/amazon_2023 Office_Products shop"
)
@click.option(
    "--base-url",
    envvar=["R2EC_DOWNLOAD_URL", "R2EC_DOWNLOAD_BASE_URL", "R2EC_BASE_URL"],
    default=BASE_URL,
    show_default="UCSD",
    metavar="URL",
    help="Where the data set lies; also R2EC_DOWNLOAD_URL.",
)
@click.option(
    "--ratings-path",
    default=RATINGS_PATH,
    show_default="as UCSD",
    metavar="PATH",
    help="The ratings below the base address.",
)
@click.option(
    "--items-path",
    default=ITEMS_PATH,
    show_default="as UCSD",
    metavar="PATH",
    help="The metadata below the base address.",
)
@click.option(
    "--only", type=click.Choice(["ratings", "items"]), help="One of the two files, not both."
)
@click.option(
    "--checksum",
    "checksums",
    multiple=True,
    metavar="NAME=HEX",
    help="MD5, SHA-1, SHA-256 or SHA-512 that the file of this name must have; may be repeated.",
)
@click.option(
    "--sums",
    metavar="NAME",
    help="Take the checksums from the file of this name beside each file, such as SHA256SUMS.",
)
@click.option(
    "--tries",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="Failures in a row, without a byte in between, after which to give up.",
)
@click.option(
    "--first-wait",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Seconds until the second try; each further wait is twice as long, up to a minute.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds without a byte after which a connection counts as broken.",
)
@click.option("--overwrite", is_flag=True, help="Fetch files that are there already once more.")
@click.argument("category")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
def download(
    base_url: str,
    ratings_path: str,
    items_path: str,
    only: str | None,
    checksums: tuple[str, ...],
    sums: str | None,
    tries: int,
    first_wait: float,
    timeout: float,
    overwrite: bool,
    category: str,
    out: Path,
) -> None:
    """Fetch ratings and metadata of CATEGORY, such as Office_Products, into the folder OUT.

    What broke off is gone on with by the same command; a file is there only when it is whole. The
    categories of Amazon-Reviews-2023, and where UCSD has their files:

    \b
    https://amazon-reviews-2023.github.io
    https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023
      benchmark/0core/rating_only/{category}.csv.gz
      raw/meta_categories/meta_{category}.jsonl.gz
    """
    from r2ec.checksums import Checksum
    from r2ec.download import Patience, fetch, join_url, read_sums

    if not re.fullmatch(r"\w+", category, re.ASCII):
        raise UsageError(f"CATEGORY {category!r}: give a name such as Office_Products")
    paths = {
        kind: path.replace("{category}", category)
        for kind, path in {"ratings": ratings_path, "items": items_path}.items()
        if only in (None, kind)
    }
    names = {kind: path.rsplit("/", 1)[-1] for kind, path in paths.items()}
    wanted = _checksums(checksums, set(names.values()))
    patience = Patience(tries=tries, first_wait_seconds=first_wait, timeout_seconds=timeout)
    found = {}
    for kind, path in paths.items():
        url, name = join_url(base_url, path), names[kind]
        checksum = Checksum.parse(wanted[name]) if name in wanted else None
        if checksum is None and sums:
            sums_url = join_url(base_url, f"{path.rpartition('/')[0]}/{sums}")
            checksum = read_sums(sums_url, patience).get(name)
            if checksum is None:
                raise UsageError(f"{sums_url} has no line for {name}; give it by --checksum")
        fetched = fetch(url, out / name, checksum=checksum, patience=patience, overwrite=overwrite)
        how = "was there" if fetched.was_there else f"from {url}"
        checked = f", {checksum}" if checksum else ", no checksum given"
        click.echo(f"{fetched.path}: {fetched.num_bytes:,} bytes, {how}{checked}")
        found[kind] = fetched.path
    if len(found) == 2:
        click.echo(
            f"next: spark-submit jobs/build_catalog.py --items {found['items']} "
            f"--interactions {found['ratings']}"
        )


def _checksums(given: tuple[str, ...], names: set[str]) -> dict[str, str]:
    """File name -> the hex digits given for it; UsageError for a file that is not fetched."""
    found = {}
    for text in given:
        name, equals, digest = text.rpartition("=")
        if not equals or name not in names:
            raise UsageError(
                f"--checksum {text!r}: give NAME=HEX, where NAME is {' or '.join(sorted(names))}"
            )
        found[name] = digest
    return found
