"""`r2ec-cli train`: contrastive stage, then RecPO, alone or under torchrun/deepspeed."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from r2ec.config import TrainConfig
from r2ec.lock import JobLock, folder_lock
from r2ec.logs import get_logger
from r2ec.model.card import check_hugging_face, load_card
from r2ec.model.checkpoint import load_base, save_model
from r2ec.model.memory import TRAINING_ADVICE, memory_advice
from r2ec.recpo.batches import batch_at, learning_rate
from r2ec.recpo.checkpoints import settle_model
from r2ec.recpo.contrastive import build_user_row, contrastive_step
from r2ec.recpo.engine import World
from r2ec.recpo.final import evaluate_delivered
from r2ec.recpo.journal import Journal
from r2ec.recpo.peers import lost_peers
from r2ec.recpo.run_folder import (
    FINISHED,
    check_data,
    prepare_run_dir,
    read_finished,
    write_json,
)
from r2ec.recpo.stage import peak_memory_bytes
from r2ec.recpo.step import recpo_step
from r2ec.recpo.workplace import Data, build_card, load_data, open_workplace, run_plan
from r2ec.stopping import StopSignal

_LOG = get_logger(__name__)


def run(config: TrainConfig, *, resume: bool, fresh: bool) -> dict[str, dict[str, float]]:
    """Train as configured; returns the figures of each stage, on every rank.

    Raises `UsageError` if the run folder holds another run, `NotReadyError` if input is missing or
    another training is at work in that folder, `LostPeerError` where another rank is gone.
    """
    check_hugging_face(config.paths.base_model)
    timeout = config.engine.timeout_seconds
    with lost_peers(timeout):
        world = World(timeout)
    try:
        with (
            StopSignal() as stop,
            memory_advice(TRAINING_ADVICE),
            lost_peers(timeout),
            ExitStack() as held,
        ):
            lock = _lock(config.paths.resolved_run_dir)
            world.on_first(lambda: held.enter_context(lock))

            def stopping() -> bool:
                if world.is_first:
                    lock.check()
                return stop.received

            return _run(config, world, resume=resume, fresh=fresh, stopping=stopping)
    finally:
        world.close()


def _lock(run_dir: Path) -> JobLock:
    """Two trainings that write the same checkpoints would leave neither's."""
    return folder_lock(
        run_dir,
        "train",
        told=f"another training is at work in {run_dir}",
        remedy="wait for it, or give another --output",
    )


def _run(
    config: TrainConfig,
    world: World,
    *,
    resume: bool,
    fresh: bool,
    stopping: Callable[[], bool],
) -> dict[str, dict[str, float]]:
    run_dir = config.paths.resolved_run_dir
    data = load_data(config)

    def prepare() -> None:
        prepare_run_dir(config, run_dir, resume=resume, fresh=fresh)
        check_data(data, run_dir)

    world.on_first(prepare)
    finished = read_finished(run_dir) if resume else {}
    journal = Journal(run_dir, active=world.is_first)
    source = config.paths.base_model
    for name, steps, stage in (
        ("contrastive", config.contrastive.steps, contrastive_stage),
        ("recpo", config.recpo.steps, recpo_stage),
    ):
        if steps == 0:
            continue
        if name not in finished:
            finished[name] = stage(config, world, data, journal, run_dir, source, resume, stopping)
            if world.is_first:
                write_json(run_dir / FINISHED, finished)
            world.barrier()
        source = str(run_dir / name)
    if world.is_first:
        deliver(config, data, source, finished)
        log_summary(finished)
    world.barrier()
    if config.evaluation.at_end:
        evaluate_delivered(config, world, data.catalog)
        world.barrier()
    journal.close()
    return finished


def contrastive_stage(
    config: TrainConfig,
    world: World,
    data: Data,
    journal: Journal,
    run_dir: Path,
    source: str,
    resume: bool,
    stopping: Callable[[], bool],
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
        stage="contrastive",
        weight_decay=settings.weight_decay,
        with_reference=False,
    )

    def run_step(step: int) -> dict[str, float | None]:
        start = time.monotonic()
        users = batch_at(data.train, step, settings.batch_users, config.seed)
        rows = [
            build_user_row(
                place.encoder,
                data.catalog,
                example,
                seed=(config.seed, step),
                reasoning_share=settings.reasoning_share,
                rationale_share=settings.rationale_share,
                history_dropout=settings.history_dropout,
            )
            for example in world.share(users)
        ]
        spoken = world.gather((sum(r.language_tokens for r in rows), sum(len(r.ids) for r in rows)))
        tokens, read = (sum(share) for share in zip(*spoken, strict=True))
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
            "tokens_per_second": read / (time.monotonic() - start),
            "peak_memory_bytes": peak_memory_bytes(),
        }

    return run_plan(
        place,
        "contrastive",
        settings,
        run_step,
        reasoning_budget=0,
        resume=resume,
        stopping=stopping,
    )


def recpo_stage(
    config: TrainConfig,
    world: World,
    data: Data,
    journal: Journal,
    run_dir: Path,
    source: str,
    resume: bool,
    stopping: Callable[[], bool],
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
        stage="recpo",
        weight_decay=settings.weight_decay,
        with_reference=settings.kl_weight > 0,
    )

    def run_step(step: int) -> dict[str, float | None]:
        return recpo_step(place, step)

    return run_plan(
        place,
        "recpo",
        settings,
        run_step,
        reasoning_budget=config.evaluation.reasoning_budget,
        resume=resume,
        stopping=stopping,
    )


def deliver(
    config: TrainConfig, data: Data, source: str, finished: dict[str, dict[str, float]]
) -> None:
    """Copy the last stage's best weights to `paths.output`, with the figures in its card.

    With LoRA the adapters of all stages go along as one, on the base model that the run began with.
    """
    model, _, tokenizer = load_base(
        source,
        model=config.model.model_copy(update={"lora": type(config.model.lora)()}),
        prompt=config.prompt,
    )
    metrics = {f"{stage}.{k}": v for stage, figures in finished.items() for k, v in figures.items()}
    metrics |= load_card(source).metrics if finished else {}
    stages = [Path(config.paths.resolved_run_dir, name, "adapter") for name in finished]
    settle_model(Path(config.paths.output))
    saved = save_model(
        config.paths.output,
        model,
        tokenizer,
        build_card(config, data, metrics),
        adapters=stages if config.model.lora.rank else (),
        adapters_base=str(Path(config.paths.base_model).resolve()),
    )
    _LOG.info("model %s written to %s", saved.fingerprint, config.paths.output)


def log_summary(finished: dict[str, dict[str, float]]) -> None:
    """One line a stage: what it began with and what came of it."""
    for stage, figures in finished.items():
        _LOG.info(
            "%s: valid N@10 %.4f before, %.4f after (step %d of %d)",
            stage,
            figures["valid_ndcg@10_before"],
            figures["valid_ndcg@10"],
            figures["best_step"],
            figures["steps"],
        )
