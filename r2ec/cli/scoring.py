"""`score`: the recommendations and the reasoning of a date, or of one shard of it."""

import os

import click
from click.core import ParameterSource

from r2ec.cli.options import FiniteRange, date_option, price_option, warehouse_option
from r2ec.errors import UsageError


@click.command(epilog="Example: r2ec-cli score --date 2024-05-31 --model model --top-k 10")
@warehouse_option
@date_option
@click.option("--model", "model_dir", required=True, metavar="DIR", help="Model directory.")
@click.option("--top-k", default=10, show_default=True, help="Items for each user.")
@click.option(
    "--shard", type=int, help="Which shard, from 0.  [default: JOB_COMPLETION_INDEX or 0]"
)
@click.option("--num-shards", default=1, show_default=True, help="Shards of the date.")
@click.option(
    "--reasoning-budget",
    type=click.IntRange(min=0),
    help="Most tokens.  [default: as evaluated in training]",
)
@click.option(
    "--temperature",
    default=0.0,
    show_default=True,
    type=FiniteRange(min=0),
    help="0 takes the likeliest token.",
)
@click.option(
    "--sampling-top-k",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Sample among the k likeliest tokens; 0: all.",
)
@click.option(
    "--sampling-top-p",
    default=1.0,
    show_default=True,
    type=FiniteRange(min=0, min_open=True, max=1),
    help="Sample among the likeliest tokens of this mass.",
)
@click.option("--seed", default=0, show_default=True, help="Of the sampling, with a temperature.")
@click.option(
    "--changed-only",
    is_flag=True,
    help="Carry over the last published date's rows of users for whom nothing changed.",
)
@click.option(
    "--category",
    "categories",
    multiple=True,
    metavar="NAME",
    help="Only items of this category, or below it; repeatable.",
)
@click.option(
    "--exclude-items",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="None of the items of this text file, an item_id a line.",
)
@click.option(
    "--exclude-stores", multiple=True, metavar="NAME", help="No items of this store; repeatable."
)
@click.option("--allow-repeat", is_flag=True, help="Items of the history may be recommended again.")
@click.option("--users-per-part", default=2000, show_default=True, help="A restart loses one part.")
@click.option(
    "--batch-rows",
    default=256,
    show_default=True,
    help="Users that run at once; the same for all shards.",
)
@click.option(
    "--cache-gib",
    default=8.0,
    show_default=True,
    type=FiniteRange(min=0, min_open=True),
    metavar="GIB",
    help="Room for their keys and values; where it is short fewer run at once.",
)
@click.option(
    "--max-error-share",
    default=0.01,
    show_default=True,
    type=FiniteRange(min=0, max=1),
    help="With a larger share of failed users: exit code 4.",
)
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1 …  [default: cuda if there]")
@click.option(
    "--publish/--no-publish",
    "publishes",
    default=None,
    help="Publish when done.  [default: with one shard]",
)
@price_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def score(
    warehouse: str,
    date: str,
    model_dir: str,
    top_k: int,
    shard: int | None,
    num_shards: int,
    reasoning_budget: int | None,
    temperature: float,
    sampling_top_k: int,
    sampling_top_p: float,
    seed: int,
    changed_only: bool,
    categories: tuple[str, ...],
    exclude_items: str | None,
    exclude_stores: tuple[str, ...],
    allow_repeat: bool,
    users_per_part: int,
    batch_rows: int,
    cache_gib: float,
    max_error_share: float,
    device: str | None,
    publishes: bool | None,
    price_per_hour: float | None,
    dry_run: bool,
) -> None:
    """Recommend for every user of a date, with the reasoning.

    One shard of several is scored by itself; r2ec-cli publish makes the date visible when all are
    done. Run again after a stop: finished parts are kept. Told to stop (SIGTERM) it ends after the
    part in hand, with exit code 75.
    """
    from r2ec.infer.plan import expected_users
    from r2ec.infer.publish import publish
    from r2ec.infer.score import plan_shard, score_shard
    from r2ec.infer.settings import ScoreSettings
    from r2ec.logs import progress
    from r2ec.model.card import load_card
    from r2ec.model.memory import SCORING_ADVICE, memory_advice
    from r2ec.stopping import StopSignal
    from r2ec.storage import Warehouse

    will_publish = publishes or (publishes is None and num_shards == 1)
    _check_price(will_publish)
    place = Warehouse(warehouse)
    card = load_card(model_dir)
    budget = card.reasoning_budget if reasoning_budget is None else reasoning_budget
    settings = ScoreSettings(
        top_k=top_k,
        reasoning_budget=budget,
        temperature=temperature,
        seed=seed,
        categories=categories,
        exclude_items=_read_ids(exclude_items),
        exclude_stores=tuple(sorted(set(exclude_stores))),
        allow_repeat=allow_repeat,
        sampling_top_k=sampling_top_k,
        sampling_top_p=sampling_top_p,
    )
    job = plan_shard(
        place,
        model_dir,
        settings,
        date=date,
        shard=_shard(shard),
        num_shards=num_shards,
        users_per_part=users_per_part,
        batch_rows=batch_rows,
        cache_gib=cache_gib,
        changed_only=changed_only,
    )
    where = f"run {job.plan.run_id}, shard {job.shard} of {num_shards}"
    if job.full_because is not None:
        click.echo(f"--changed-only: every user is scored, for {job.full_because}")
    if dry_run:
        click.echo(
            f"{where}: would score histories/date={date} with model {job.plan.model} against"
            f" {job.catalog.num_items:,} items of catalog {job.plan.catalog_version}"
            + (f", unchanged users carried over from {job.source.date}" if job.source else "")
        )
        return
    users = expected_users(place, date, num_shards)
    told = progress(f"users of shard {job.shard}", users, is_estimate=num_shards > 1)
    with told as advance, StopSignal() as stop, memory_advice(SCORING_ADVICE):
        result = score_shard(
            job,
            max_error_share=max_error_share,
            device=device,
            report=advance,
            stopping=lambda: stop.received,
        )
    if result.already_published:
        click.echo(f"{where}: is published already, with the same inputs; nothing to do")
        return
    carried = ""
    if job.source is not None:
        carried = f" ({result.num_carried:,} carried over from {job.source.date})"
    click.echo(f"{where}: {result.num_users:,} users{carried}, {result.num_errors:,} errors")
    if will_publish:
        done = publish(place, date, job.plan.run_id, price_per_hour=price_per_hour)
        click.echo(
            f"published {done.run_id}: {done.num_users:,} users,"
            f" {done.num_recommendations:,} recommendations"
        )


def _check_price(will_publish: bool) -> None:
    """Raise `click.UsageError` for a price typed where nothing is published, so it has no effect.

    R2EC_PRICE_PER_HOUR may be there for the whole of a job.
    """
    source = click.get_current_context().get_parameter_source("price_per_hour")
    if source is ParameterSource.COMMANDLINE and not will_publish:
        raise click.UsageError(
            "--price-per-hour has no effect where nothing is published; give it to r2ec-cli publish"
        )


def _shard(shard: int | None) -> int:
    """The shard given, else the completion index of a Kubernetes Indexed Job, else 0."""
    if shard is not None:
        return shard
    index = os.environ.get("JOB_COMPLETION_INDEX", "0")
    if not index.isdecimal():
        raise UsageError(f"JOB_COMPLETION_INDEX is {index!r}: it must be a number from 0")
    return int(index)


def _read_ids(file: str | None) -> tuple[str, ...]:
    if file is None:
        return ()
    try:
        with open(file, encoding="utf-8-sig") as stream:
            return tuple(sorted({line.strip() for line in stream} - {""}))
    except UnicodeDecodeError as error:
        raise UsageError(
            f"--exclude-items {file} is not in UTF-8 ({error}): save it as such"
        ) from error
