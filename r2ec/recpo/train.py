"""`r2ec-cli train`: contrastive stage, then RecPO, alone or under torchrun/deepspeed."""

import json
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r2ec.config import TrainConfig
from r2ec.errors import NotReadyError, UsageError
from r2ec.logs import get_logger
from r2ec.model.checkpoint import (
    ModelCard,
    check_hugging_face,
    load_base,
    load_card,
    save_model,
)
from r2ec.model.dual_head import DualHeadModel
from r2ec.recpo.advantage import group_advantages, zero_variance
from r2ec.recpo.batches import batch_at, learning_rate
from r2ec.recpo.contrastive import build_user_row, contrastive_step
from r2ec.recpo.engine import Engine, World
from r2ec.recpo.items import ItemTable, LiveRows
from r2ec.recpo.journal import Journal
from r2ec.recpo.reward import fused_rewards
from r2ec.recpo.rollout import Group, sample_rollouts
from r2ec.recpo.stage import StagePlan, peak_memory_bytes, run_stage
from r2ec.recpo.update import (
    UpdateBatch,
    UpdateFigures,
    UpdateSettings,
    build_samples,
    frozen_copy,
    old_item_logprobs,
    update_policy,
)
from r2ec.recpo.validation import validation_ranks
from r2ec.retrieval.rank import target_ranks, target_softmax
from r2ec.sampler import SamplingSettings
from r2ec.storage import Warehouse
from r2ec.tables import Catalog, Example, load_catalog, load_examples
from r2ec.text.prompts import TEMPLATE_VERSION
from r2ec.text.tokens import PromptEncoder

_LOG = get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What a run reads from the warehouse."""

    catalog: Catalog
    train: list[Example]
    valid: list[Example]


@dataclass(slots=True)
class Workplace:
    """One stage's model and what stands around it."""

    config: TrainConfig
    world: World
    data: Data
    journal: Journal
    run_dir: Path
    engine: Engine
    table: ItemTable
    encoder: PromptEncoder
    tokenizer: Any
    reference: DualHeadModel | None

    @property
    def pad_id(self) -> int:
        """Any token: padding is masked."""
        return next(iter(self.encoder.stop_ids))


def run(config: TrainConfig, *, resume: bool, fresh: bool) -> dict[str, dict[str, float]]:
    """Train as configured; returns the figures of each stage, on every rank.

    Raises `UsageError` if the run folder holds another run, `NotReadyError` if input is missing.
    """
    check_hugging_face(config.paths.base_model)
    world = World()
    try:
        return _run(config, world, resume=resume, fresh=fresh)
    finally:
        world.close()


def _run(
    config: TrainConfig, world: World, *, resume: bool, fresh: bool
) -> dict[str, dict[str, float]]:
    run_dir = config.paths.resolved_run_dir
    data = load_data(config)
    if world.is_first:
        prepare_run_dir(config, run_dir, resume=resume, fresh=fresh)
    world.barrier()
    state_file = run_dir / "finished.json"
    finished = json.loads(state_file.read_text()) if resume and state_file.exists() else {}
    journal = Journal(run_dir, active=world.is_first)
    source = config.paths.base_model
    for name, steps, stage in (
        ("contrastive", config.contrastive.steps, contrastive_stage),
        ("recpo", config.recpo.steps, recpo_stage),
    ):
        if steps == 0:
            continue
        if name not in finished:
            finished[name] = stage(config, world, data, journal, run_dir, source, resume)
            if world.is_first:
                _write_json(state_file, finished)
            world.barrier()
        source = str(run_dir / name)
    if world.is_first:
        deliver(config, data, source, finished)
    world.barrier()
    journal.close()
    return finished


def load_data(config: TrainConfig) -> Data:
    """Catalog, training examples, and a fixed draw of the valid split."""
    warehouse = Warehouse(config.paths.warehouse)
    catalog = load_catalog(warehouse)
    train = load_examples(warehouse, "train")
    valid = load_examples(warehouse, "valid")
    if not train or not valid:
        raise NotReadyError(
            f"{config.paths.warehouse}: {len(train)} train and {len(valid)} valid sequences; both"
            " are needed. Use more events, or other split bounds in jobs/build_sequences.py"
        )
    if len(valid) > config.evaluation.max_valid_users:
        valid = random.Random(0).sample(valid, config.evaluation.max_valid_users)
    return Data(catalog=catalog, train=train, valid=valid)


def prepare_run_dir(config: TrainConfig, run_dir: Path, *, resume: bool, fresh: bool) -> None:
    """Make the run folder and keep the resolved configuration in it.

    Raises `UsageError` where a run is there and neither `resume` nor `fresh` was asked for, or the
    configuration of the run to be resumed differs.
    """
    resolved = json.loads(config.model_dump_json())
    file = run_dir / "config.json"
    if file.exists() and not fresh:
        if not resume:
            raise UsageError(
                f"{run_dir} holds a run already: go on with --resume, or start anew with --fresh"
            )
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = _differences(before, resolved)
        if changed:
            raise UsageError(
                f"{run_dir} was started with another configuration: {'; '.join(changed)}."
                " Resume with the same one, or start anew with --fresh"
            )
        return
    if run_dir.exists() and fresh:
        shutil.rmtree(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    _write_json(file, resolved)


def open_workplace(
    config: TrainConfig,
    world: World,
    data: Data,
    journal: Journal,
    run_dir: Path,
    source: str,
    *,
    weight_decay: float,
    with_reference: bool,
) -> Workplace:
    """Load the weights a stage starts from and put DeepSpeed around them."""
    model, encoder, tokenizer = load_base(
        source, model=config.model, prompt=config.prompt, device=world.device
    )
    rows = [encoder.item_ids(item) for item in data.catalog.items]
    reference = frozen_copy(model) if with_reference else None
    engine = Engine(
        world,
        model,
        zero_stage=config.engine.zero_stage,
        gradient_clipping=config.engine.gradient_clipping,
        weight_decay=weight_decay,
    )
    return Workplace(
        config=config,
        world=world,
        data=data,
        journal=journal,
        run_dir=run_dir,
        engine=engine,
        table=ItemTable(world, rows, next(iter(encoder.stop_ids))),
        encoder=encoder,
        tokenizer=tokenizer,
        reference=reference,
    )


def contrastive_stage(
    config: TrainConfig,
    world: World,
    data: Data,
    journal: Journal,
    run_dir: Path,
    source: str,
    resume: bool,
) -> dict[str, float]:
    """First stage; evaluated without reasoning."""
    settings = config.contrastive
    place = open_workplace(
        config,
        world,
        data,
        journal,
        run_dir,
        source,
        weight_decay=settings.weight_decay,
        with_reference=False,
    )

    def run_step(step: int) -> dict[str, float | None]:
        users = batch_at(data.train, step, settings.batch_users, config.seed)
        rows = [
            build_user_row(
                place.encoder,
                data.catalog,
                example,
                seed=(config.seed, step),
                reasoning_share=settings.reasoning_share,
                history_dropout=settings.history_dropout,
            )
            for example in world.share(users)
        ]
        tokens = sum(world.gather(sum(row.language_tokens for row in rows)))
        lr = learning_rate(step, settings.lr, settings.warmup_steps)
        figures, norm = contrastive_step(
            place.engine,
            rows,
            [example.target_index for example in users],
            place.table,
            language_tokens=tokens,
            lm_weight=settings.lm_weight,
            micro_batch=settings.micro_batch_users,
            lr=lr,
            pad_id=place.pad_id,
        )
        return {
            "item_loss": figures.item_loss,
            "language_loss": figures.language_loss,
            "in_batch_hit_rate@1": figures.in_batch_hits,
            "grad_norm": norm,
            "lr": lr,
        }

    return _run_plan(
        place,
        "contrastive",
        settings.steps,
        settings.eval_every,
        settings.patience,
        run_step,
        reasoning_budget=0,
        resume=resume,
    )


def recpo_stage(
    config: TrainConfig,
    world: World,
    data: Data,
    journal: Journal,
    run_dir: Path,
    source: str,
    resume: bool,
) -> dict[str, float]:
    """Second stage: rollouts, rewards, advantages, update."""
    settings = config.recpo
    place = open_workplace(
        config,
        world,
        data,
        journal,
        run_dir,
        source,
        weight_decay=settings.weight_decay,
        with_reference=settings.kl_weight > 0,
    )

    def run_step(step: int) -> dict[str, float | None]:
        return recpo_step(place, step)

    return _run_plan(
        place,
        "recpo",
        settings.steps,
        settings.eval_every,
        0,
        run_step,
        reasoning_budget=config.evaluation.reasoning_budget,
        resume=resume,
    )


def recpo_step(place: Workplace, step: int) -> dict[str, float | None]:
    """One step of RecPO on one global batch; returns its figures, the same on all ranks."""
    config, world, engine = place.config, place.world, place.engine
    settings = config.recpo
    start = time.monotonic()
    users = batch_at(place.data.train, step, settings.batch_users, config.seed)
    targets = [example.target_index for example in users]
    groups = sample_rollouts(
        engine.model,
        place.encoder,
        place.data.catalog,
        world.share(users),
        SamplingSettings(
            temperature=settings.sampling.temperature,
            top_k=settings.sampling.top_k,
            top_p=settings.sampling.top_p,
            max_new_tokens=settings.sampling.max_new_tokens,
            keep_support=settings.support == "top_k",
            seed=config.seed,
        ),
        step=step,
        group_size=settings.group_size,
        batch_rows=settings.sampling.batch_rows,
    )
    rollout_seconds = time.monotonic() - start
    refresh_table(place, step, targets)
    rewards_BG = rollout_rewards(
        engine.model, groups, place.table, settings.beta, settings.reward_cutoff
    )
    advantages_BG = group_advantages(rewards_BG, settings.advantage)
    batch = build_batch(place, groups, advantages_BG, targets)
    update = UpdateSettings(
        temperature=settings.sampling.temperature,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        token_norm=settings.token_norm,
        item_weight=settings.item_weight,
        item_softmax=settings.item_softmax,
        kl_weight=settings.kl_weight,
        micro_batch_rows=settings.micro_batch_rows,
    )
    old_items = old_item_logprobs(engine, batch, place.table, settings.item_softmax)
    lr = learning_rate(step, settings.lr, settings.warmup_steps)
    for _ in range(settings.updates_per_rollout):
        figures, norm = update_policy(
            engine,
            batch,
            place.table,
            old_items,
            update,
            pad_id=place.pad_id,
            lr=lr,
            reference=place.reference,
        )
    if step % config.recpo.eval_every == 0 and groups:
        sample = groups[0].completions[0]
        place.journal.log_text("recpo", step, "reasoning", place.encoder.reasoning_text(sample.ids))
    result = step_figures(place, groups, rewards_BG, figures)
    return result | {
        "grad_norm": norm,
        "lr": lr,
        "rollout_seconds": rollout_seconds,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def refresh_table(place: Workplace, step: int, targets: list[int]) -> None:
    """The whole table every `refresh_every` steps; the batch's target rows before each reward."""
    if step % place.config.recpo.refresh_every == 0 or place.table.table_IH.numel() == 0:
        place.table.refresh(place.engine)
    else:
        place.table.put(targets, LiveRows(place.engine, place.table, targets).rows_CH.detach())


def rollout_rewards(
    model: DualHeadModel, groups: list[Group], table: ItemTable, beta: float, cutoff: int
) -> Tensor:
    """Fused rewards (B, G) of this rank's rollouts, from their user states and the item table."""
    if not groups:
        return torch.zeros(0, 2)
    group_size = len(groups[0].completions)
    states_NH = torch.stack([c.state_H for group in groups for c in group.completions])
    target_N = torch.tensor([g.target_index for g in groups for _ in range(group_size)])
    states_NH, target_N = states_NH.to(model.device), target_N.to(model.device)
    ranks_N = target_ranks(
        states_NH, table.table_IH, target_N, temperature=model.temperature, ties="worst"
    )
    probability_N = target_softmax(
        states_NH, table.table_IH, target_N, temperature=model.temperature
    )
    rewards_N = fused_rewards(ranks_N, probability_N, beta=beta, cutoff=cutoff)
    return rewards_N.view(len(groups), group_size).cpu()


def build_batch(
    place: Workplace, groups: list[Group], advantages_BG: Tensor, targets: list[int]
) -> UpdateBatch:
    """Put the global denominators beside this rank's rollouts."""
    settings = place.config.recpo
    sampled = sum(c.num_sampled for group in groups for c in group.completions)
    tokens = sum(place.world.gather(sampled))
    rows = place.world.largest_share(len(targets)) * settings.group_size
    return UpdateBatch(
        groups=groups,
        samples=build_samples(groups, advantages_BG),
        targets_C=targets,
        num_users=len(targets),
        group_size=settings.group_size,
        mean_tokens=tokens / (len(targets) * settings.group_size),
        num_chunks=-(-rows // settings.micro_batch_rows),
    )


def step_figures(
    place: Workplace, groups: list[Group], rewards_BG: Tensor, figures: UpdateFigures
) -> dict[str, float | None]:
    """Means over the global batch."""
    completions = [c for group in groups for c in group.completions]
    parts = place.world.gather(
        {
            "rewards": rewards_BG,
            "zero": int(zero_variance(rewards_BG).sum()) if len(groups) else 0,
            "tokens": [c.num_sampled for c in completions],
            "reasons": [c.finish_reason for c in completions],
            "update": {name: getattr(figures, name) for name in UpdateFigures.__slots__},
        }
    )
    rewards = torch.cat([part["rewards"].flatten() for part in parts])
    lengths = [length for part in parts for length in part["tokens"]]
    reasons = [reason for part in parts for reason in part["reasons"]]
    total = {name: sum(part["update"][name] for part in parts) for name in UpdateFigures.__slots__}
    tokens = max(1.0, total["tokens"])
    num_users = len(rewards) // place.config.recpo.group_size
    return {
        "reward_mean": rewards.mean().item(),
        "reward_std": rewards.std(correction=0).item(),
        "zero_variance_share": sum(part["zero"] for part in parts) / num_users,
        "token_loss": total["token_loss"],
        "item_loss": total["item_loss"],
        "kl": total["kl"],
        "clip_fraction": total["clipped"] / tokens,
        "ratio_mean": total["ratio_sum"] / tokens if total["tokens"] else None,
        "ratio_max": max(part["update"]["ratio_max"] for part in parts),
        "entropy": total["entropy_sum"] / tokens,
        "reasoning_tokens": sum(lengths) / len(lengths),
        "marker_share": reasons.count("marker") / len(reasons),
        "length_share": reasons.count("length") / len(reasons),
    }


def deliver(
    config: TrainConfig, data: Data, source: str, finished: dict[str, dict[str, float]]
) -> None:
    """Copy the last stage's best weights to `paths.output`, with the figures in its card."""
    model, _, tokenizer = load_base(
        source,
        model=config.model.model_copy(update={"lora": type(config.model.lora)()}),
        prompt=config.prompt,
    )
    metrics = {f"{stage}.{k}": v for stage, figures in finished.items() for k, v in figures.items()}
    metrics |= load_card(source).metrics if finished else {}
    saved = save_model(config.paths.output, model, tokenizer, build_card(config, data, metrics))
    adapter = Path(source, "adapter")
    if adapter.is_dir():
        shutil.copytree(adapter, Path(config.paths.output, "adapter"))
    _LOG.info("model %s written to %s", saved.fingerprint, config.paths.output)


def build_card(config: TrainConfig, data: Data, metrics: dict[str, float]) -> ModelCard:
    """The card of a model trained with this configuration on this catalog."""
    return ModelCard(
        tau=config.model.tau,
        marker=config.model.marker,
        prompt=json.loads(config.prompt.model_dump_json()),
        template_version=TEMPLATE_VERSION,
        catalog_version=data.catalog.version,
        catalog_fingerprint=data.catalog.fingerprint(),
        catalog_items=data.catalog.num_items,
        training=json.loads(config.model_dump_json()),
        metrics=metrics,
    )


def _run_plan(
    place: Workplace,
    name: str,
    steps: int,
    eval_every: int,
    patience: int,
    run_step: Any,
    *,
    reasoning_budget: int,
    resume: bool,
) -> dict[str, float]:
    config, data = place.config, place.data
    plan = StagePlan(
        name=name,
        steps=steps,
        eval_every=eval_every,
        patience=patience,
        checkpoint_every=config.checkpoint.every_steps,
        keep=config.checkpoint.keep,
        run_step=run_step,
        evaluate=lambda: validation_ranks(
            place.engine,
            place.table,
            place.encoder,
            data.catalog,
            data.valid,
            reasoning_budget=reasoning_budget,
            batch_rows=config.evaluation.batch_rows,
        ),
        card=lambda metrics: build_card(config, data, metrics),
    )
    return run_stage(
        plan,
        place.engine,
        place.table,
        place.tokenizer,
        place.journal,
        place.run_dir,
        resume=resume,
    )


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [
            line
            for key in keys
            for line in _differences(before.get(key), now.get(key), f"{path}.{key}".strip("."))
        ]
    return [] if before == now else [f"{path} was {before!r}, now {now!r}"]


def _write_json(file: Path, value: Any) -> None:
    staging = file.with_suffix(".writing")
    staging.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    staging.replace(file)
