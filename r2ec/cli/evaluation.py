"""`evaluate`: how well a model, or a baseline, predicts what was bought next."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from r2ec.cli.options import check_day, warehouse_option
from r2ec.errors import UsageError
from r2ec.schemas import SPLITS

if TYPE_CHECKING:
    from r2ec.metrics import MetricValue

# Of a model or of the sequences: they have no effect with --date.
OF_A_MODEL = ("config_file", "reasoning_budget", "device")
OF_SEQUENCES = ("split", "max_users", "ranks_file", "seed", "sasrec_weights")
BASELINES = ("popularity", "recent-popularity", "cooccurrence", "sasrec")


@click.command(epilog="Example: r2ec-cli evaluate --model model --split test")
@warehouse_option
@click.option("--model", "model_dir", metavar="DIR", help="Model directory.")
@click.option(
    "--config",
    "config_file",
    metavar="TOML",
    help="The model is a plain language model: evaluate it untrained, with these settings.",
)
@click.option("--baseline", type=click.Choice(BASELINES), help="Instead of a model.")
@click.option(
    "--date",
    metavar="DAY",
    callback=check_day,
    help="Instead of a model: the lists published for this day, by what was bought next.",
)
@click.option(
    "--days",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="With --date: how long after it a purchase counts.",
)
@click.option("--seed", default=0, show_default=True, help="Of the training of sasrec.")
@click.option(
    "--sasrec-weights", metavar="FILE", help="Read sasrec from here, or keep it here once trained."
)
@click.option(
    "--split", type=click.Choice(SPLITS), help="Which sequences; not with --date.  [default: test]"
)
@click.option(
    "--k",
    "ks",
    multiple=True,
    type=click.IntRange(min=1),
    default=(5, 10, 20),
    show_default=True,
    help="Cut-offs; may be repeated.",
)
@click.option(
    "--max-users",
    type=click.IntRange(min=1),
    help="A fixed draw of so many sequences.  [default: all]",
)
@click.option(
    "--reasoning-budget",
    type=click.IntRange(min=0),
    help="Most tokens; 0 ranks without reasoning.  [default: as in training]",
)
@click.option(
    "--ranks", "ranks_file", metavar="FILE", help="Parquet: the rank of each sequence's target."
)
@click.option("--name", help="Name of the run in the metrics table.  [default: model or baseline]")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1 …  [default: cuda if there]")
@click.option(
    "--format",
    "output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people or for programs.",
)
def evaluate(
    warehouse: str,
    model_dir: str | None,
    config_file: str | None,
    baseline: str | None,
    date: str | None,
    days: int,
    seed: int,
    sasrec_weights: str | None,
    split: str | None,
    ks: tuple[int, ...],
    max_users: int | None,
    reasoning_budget: int | None,
    ranks_file: str | None,
    name: str | None,
    device: str | None,
    output: str,
) -> None:
    """Hit rate and NDCG at K on a split, with 95 % bootstrap intervals, over the full catalog.

    Seen items don't compete, a target that was bought before does. With --date it is the lists as
    they were published: what is not on a list is a miss. The figures go to the table metrics.
    """
    model_dir, baseline, date = _alternatives(model_dir=model_dir, baseline=baseline, date=date)
    if sum(given is not None for given in (model_dir, baseline, date)) != 1:
        raise click.UsageError("give one of --model DIR, --baseline NAME and --date DAY")
    if date is not None:
        _check_published(click.get_current_context())
        _evaluate_published(warehouse, date, days, ks, name, output)
        return
    split = split or "test"
    if config_file is not None and model_dir is None:
        raise click.UsageError("--config goes with --model DIR of a plain language model")
    from r2ec.config import load_train_config
    from r2ec.infer.evaluate import (
        evaluation_examples,
        save_ranks,
        trained_ranks,
        untrained_ranks,
    )
    from r2ec.metric_rows import record_metrics
    from r2ec.storage import Warehouse

    place = Warehouse(warehouse)
    examples = evaluation_examples(place, split, max_users)
    if model_dir is None:
        from r2ec.infer.baselines.named import baseline_ranks

        if sasrec_weights is not None and baseline != "sasrec":
            raise UsageError(f"--sasrec-weights has no effect with --baseline {baseline}")
        model = str(baseline)
        run_id = f"{model}-seed-{seed}" if baseline == "sasrec" else model
        ranks = baseline_ranks(place, model, examples, seed=seed, weights=sasrec_weights)
    elif config_file is not None:
        config = load_train_config(config_file)
        budget = reasoning_budget
        if budget is None:
            budget = config.evaluation.reasoning_budget
        model = run_id = f"untrained-{Path(model_dir).name}"
        ranks = untrained_ranks(
            place, model_dir, config, examples, reasoning_budget=budget, device=device
        )
    else:
        from r2ec.model.card import load_card

        card = load_card(model_dir)
        model = card.fingerprint
        budget = card.reasoning_budget if reasoning_budget is None else reasoning_budget
        run_id = f"{model}-budget-{budget}"
        ranks = trained_ranks(place, model_dir, examples, reasoning_budget=budget, device=device)
    if max_users is not None:
        run_id += f"-first-{max_users}"
    run_id = name or run_id
    _check_name(run_id)
    if ranks_file is not None:
        save_ranks(ranks_file, examples, ranks)
    users = [example.history.user_id for example in examples]
    values = record_metrics(
        place, run_id=run_id, model=model, split=split, ranks=ranks, users=users, ks=ks
    )
    _print(run_id, split, values, output)


def _alternatives(**given: str | None) -> list[str | None]:
    """The values in their order; what is typed displaces what comes from the environment.

    R2EC_MODEL and R2EC_DATE are there for other commands too.
    """
    source = click.get_current_context().get_parameter_source
    typed = {name for name in given if source(name) is ParameterSource.COMMANDLINE}
    return [value if not typed or name in typed else None for name, value in given.items()]


def _check_published(ctx: click.Context) -> None:
    """Raise `click.UsageError` for options that have no effect with --date."""
    for option in ctx.command.params:
        given = ctx.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name in (*OF_A_MODEL, *OF_SEQUENCES):
            raise click.UsageError(f"{option.opts[0]} has no effect with --date")


def _within_lists(ks: tuple[int, ...], length: int, date: str) -> tuple[int, ...]:
    """The cut-offs that the lists reach; raises `UsageError` where none is left, or one given
    by hand is beyond."""
    source = click.get_current_context().get_parameter_source("ks")
    within = tuple(k for k in ks if k <= length)
    if not within or (within != ks and source is not ParameterSource.DEFAULT):
        beyond = min(k for k in ks if k > length)
        raise UsageError(
            f"--k {beyond}: the lists of {date} have at most {length} items; give cut-offs up to"
            f" {length}, or score with a greater --top-k"
        )
    return within


def _evaluate_published(
    warehouse: str, date: str, days: int, ks: tuple[int, ...], name: str | None, output: str
) -> None:
    from r2ec import schemas
    from r2ec.infer.evaluate import published_list_length, published_ranks
    from r2ec.metric_rows import record_metrics
    from r2ec.storage import Warehouse

    place = Warehouse(warehouse)
    ranks = published_ranks(place, date, days=days)
    ks = _within_lists(ks, published_list_length(place, date), date)
    run_id = name or f"published-{date}-within-{days}-days"
    _check_name(run_id)
    model = place.read_table(schemas.RUNS, date=date)["model"][0].as_py()
    values = record_metrics(place, run_id=run_id, model=model, split="later", ranks=ranks, ks=ks)
    _print(run_id, "later", values, output)


def _check_name(run_id: str) -> None:
    if not run_id.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise UsageError(f"--name {run_id!r}: letters, digits, '-', '_' and '.' only")


def _print(run_id: str, split: str, values: "list[MetricValue]", output: str) -> None:
    if output == "json":
        rows = [
            {"metric": v.metric, "value": v.value, "ci_low": v.ci_low, "ci_high": v.ci_high}
            for v in values
        ]
        counts = {"users": values[0].users, "sequences": values[0].sequences}
        click.echo(json.dumps({"run_id": run_id, "split": split, **counts, "metrics": rows}))
        return
    what = "purchases that came later" if split == "later" else split
    of_users = f"{values[0].users:,} users"
    if values[0].sequences != values[0].users:
        of_users = f"{values[0].sequences:,} sequences of {of_users}"
    click.echo(f"{run_id} on {what}, {of_users}")
    for value in values:
        click.echo(
            f"  {value.metric:<12} {value.value:.4f}   {value.ci_low:.4f} … {value.ci_high:.4f}"
        )
