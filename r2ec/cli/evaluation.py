"""`evaluate`: how well a model, or a baseline, predicts what was bought next."""

import json
from pathlib import Path

import click

from r2ec.cli.options import warehouse_option
from r2ec.errors import UsageError
from r2ec.schemas import SPLITS

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
@click.option("--seed", default=0, show_default=True, help="Of the training of sasrec.")
@click.option(
    "--sasrec-weights", metavar="FILE", help="Read sasrec from here, or keep it here once trained."
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="test",
    show_default=True,
    help="Which sequences.",
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
    "--max-users", type=click.IntRange(min=1), help="A fixed draw of so many.  [default: all]"
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
    seed: int,
    sasrec_weights: str | None,
    split: str,
    ks: tuple[int, ...],
    max_users: int | None,
    reasoning_budget: int | None,
    ranks_file: str | None,
    name: str | None,
    device: str | None,
    output: str,
) -> None:
    """Hit rate and NDCG at K on a split, with 95 % bootstrap intervals, over the full catalog.

    Seen items don't compete, a target that was bought before does. The figures go to the table
    metrics.
    """
    if (model_dir is None) == (baseline is None):
        raise click.UsageError("give either --model DIR or --baseline NAME")
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
        from r2ec.model.checkpoint import load_card

        card = load_card(model_dir)
        model = card.fingerprint
        budget = reasoning_budget
        if budget is None:
            budget = int(card.training.get("evaluation", {}).get("reasoning_budget", 64))
        run_id = f"{model}-budget-{budget}"
        ranks = trained_ranks(place, model_dir, examples, reasoning_budget=budget, device=device)
    if max_users is not None:
        run_id += f"-first-{max_users}"
    run_id = name or run_id
    if not run_id.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise UsageError(f"--name {run_id!r}: letters, digits, '-', '_' and '.' only")
    if ranks_file is not None:
        save_ranks(ranks_file, examples, ranks)
    values = record_metrics(place, run_id=run_id, model=model, split=split, ranks=ranks, ks=ks)
    if output == "json":
        rows = [
            {"metric": v.metric, "value": v.value, "ci_low": v.ci_low, "ci_high": v.ci_high}
            for v in values
        ]
        click.echo(
            json.dumps({"run_id": run_id, "split": split, "users": len(ranks), "metrics": rows})
        )
        return
    click.echo(f"{run_id} on {split}, {len(ranks):,} users")
    for value in values:
        click.echo(
            f"  {value.metric:<12} {value.value:.4f}   {value.ci_low:.4f} … {value.ci_high:.4f}"
        )
