"""`init-model`, `train`, `embed`: from a catalog to a model and its item rows."""

import shutil
from collections.abc import Callable
from pathlib import Path

import click

from r2ec.cli.options import Command, check_day, warehouse_option
from r2ec.config import TrainConfig, load_init_config, load_train_config


def set_option(example: str) -> Callable[[Command], Command]:
    """`--set KEY=VALUE`: change one setting of the configuration file."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help=f"Change one setting, such as {example}; may be repeated.",
    )


@click.command(epilog="Example: r2ec-cli init-model --warehouse warehouse --output model-base")
@warehouse_option
@click.option("--output", required=True, metavar="DIR", help="Where the base model is written.")
@click.option("--config", "config_file", metavar="TOML", help="Sections [init], [prompt], [model].")
@click.option("--from", "source", metavar="DIR", help="Take this Hugging Face directory as it is.")
@click.option(
    "--catalog-version", metavar="DAY", help="Catalog to learn the words from.  [default: latest]"
)
@set_option("init.num_layers=4")
def init_model(
    warehouse: str,
    output: str,
    config_file: str | None,
    source: str | None,
    catalog_version: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Make a small base model from the catalog, or check a Hugging Face directory.

    From scratch: a byte-level BPE tokenizer trained on the catalog, random weights of a Qwen2,
    Qwen3, Gemma-2 or Llama shape, and a short language-model warm-up on the catalog's text.
    """
    from r2ec.catalog import load_catalog
    from r2ec.logs import progress
    from r2ec.model.checkpoint import load_base
    from r2ec.model.context import check_context
    from r2ec.model.scratch import make_base_model
    from r2ec.storage import Warehouse

    settings = load_train_config(config_file) if config_file else TrainConfig()
    if source and (overrides or catalog_version):
        option = "--set" if overrides else "--catalog-version"
        raise click.UsageError(f"{option} has no effect with --from: the model is taken as it is")
    if source:
        model, encoder, _ = load_base(source, model=settings.model, prompt=settings.prompt)
        check_context(encoder, *settings.longest_reasoning)
        if Path(source).resolve() != Path(output).resolve():
            shutil.copytree(source, output, dirs_exist_ok=True)
        click.echo(
            f"{output}: {type(model.causal_lm).__name__}, hidden size {model.hidden_size},"
            f" {len(encoder.tokenizer):,} tokens, marker in {len(encoder.marker_ids)} tokens"
        )
        return
    init = load_init_config(config_file, overrides)
    catalog = load_catalog(Warehouse(warehouse), catalog_version)
    with progress("language-model warm-up", init.warmup_steps) as advance:
        loss = make_base_model(
            catalog,
            init,
            prompt=settings.prompt,
            marker=settings.model.marker,
            output=output,
            report=lambda _step, _loss: advance(1),
        )
    click.echo(f"{output}: {init.family}, language-model loss {loss:.3f} a token")


@click.command(
    epilog="Example: torchrun --nproc_per_node=2 -m r2ec train --config configs/demo.toml"
)
@click.option("--config", "config_file", required=True, metavar="TOML", help="Settings of the run.")
@click.option("--warehouse", envvar="R2EC_WAREHOUSE", metavar="PATH", help="Instead of [paths].")
@click.option("--base-model", metavar="DIR", help="Instead of paths.base_model.")
@click.option("--output", metavar="DIR", help="Instead of paths.output.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of the run folder.")
@click.option("--fresh", is_flag=True, help="Throw away what the run folder holds.")
@set_option("recpo.steps=10")
def train(
    config_file: str,
    warehouse: str | None,
    base_model: str | None,
    output: str | None,
    resume: bool,
    fresh: bool,
    overrides: tuple[str, ...],
) -> None:
    """Train a model: the contrastive stage, then RecPO.

    Runs alone, or on several processes and machines under torchrun or the deepspeed launcher.
    """
    if resume and fresh:
        raise click.UsageError("--resume and --fresh exclude each other")
    paths = {"warehouse": warehouse, "base_model": base_model, "output": output}
    given = [f"paths.{name}={value!r}" for name, value in paths.items() if value is not None]
    config = load_train_config(config_file, [*given, *overrides])
    if not config.contrastive.steps and not config.recpo.steps:
        raise click.UsageError(
            f"{config_file}: contrastive.steps and recpo.steps are both 0: nothing to train"
        )
    from r2ec.recpo.train import run

    run(config, resume=resume, fresh=fresh)


@click.command(epilog="Example: r2ec-cli embed --warehouse warehouse --model model")
@warehouse_option
@click.option("--model", "model_dir", required=True, metavar="DIR", help="Model directory.")
@click.option(
    "--catalog-version",
    metavar="DAY",
    callback=check_day,
    help="Catalog version.  [default: latest]",
)
@click.option(
    "--device", default=None, metavar="NAME", help="cpu, cuda, cuda:1 …  [default: cuda if there]"
)
def embed(warehouse: str, model_dir: str, catalog_version: str | None, device: str | None) -> None:
    """Encode the catalog into item embeddings; only items whose text changed are encoded anew.

    Ended before all are encoded, it goes on from the last file that it wrote.
    """
    from r2ec.infer.embed import embed_catalog
    from r2ec.logs import progress
    from r2ec.model.memory import EMBEDDING_ADVICE, memory_advice
    from r2ec.storage import Warehouse

    with progress("items encoded") as advance, memory_advice(EMBEDDING_ADVICE):
        done = embed_catalog(
            Warehouse(warehouse), model_dir, catalog_version, device=device, report=advance
        )
    click.echo(
        f"item_embeddings/model={done.model}: {done.num_items:,} items of catalog"
        f" {done.catalog_version}, {done.num_encoded:,} encoded, {done.num_kept:,} kept"
    )
