"""The loop that both stages share: steps, evaluation, best weights, checkpoints, resume."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2ec.errors import StoppedError
from r2ec.logs import get_logger, progress
from r2ec.metrics import hit_rate_at_k, ndcg_at_k
from r2ec.model.card import ModelCard
from r2ec.model.checkpoint import save_model
from r2ec.recpo.checkpoints import settle_model
from r2ec.recpo.engine import Engine
from r2ec.recpo.items import ItemTable
from r2ec.recpo.journal import Journal

_LOG = get_logger(__name__)
LINE_EVERY_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """What one stage does. `run_step(step)` gives the figures of a step (counted from 0), the same
    on all ranks; `evaluate()` the valid ranks of the current weights. Above 0, `patience` counts
    evaluations without a better value, `max_seconds` wall time in the stage, evaluations included,
    `max_cpu_seconds` the processor time of its steps, all ranks together.
    """

    name: str
    steps: int
    eval_every: int
    patience: int
    max_seconds: float
    max_cpu_seconds: float
    checkpoint_every: int
    keep: int
    run_step: Callable[[int], dict[str, float | None]]
    evaluate: Callable[[], np.ndarray]
    card: Callable[[dict[str, float]], ModelCard]


@dataclass(slots=True)
class _Progress:
    """State of a stage that a resume needs beside weights and optimizer."""

    step: int = 0
    best: float = -1.0
    best_step: int = 0
    first: float = -1.0
    since_best: int = 0
    judged: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def run_stage(
    plan: StagePlan,
    engine: Engine,
    table: ItemTable,
    tokenizer: Any,
    journal: Journal,
    run_dir: Path,
    *,
    resume: bool,
    stopping: Callable[[], bool],
) -> dict[str, float]:
    """Run a stage to its end; `run_dir/<name>` then holds the weights with the best valid N@10.

    The untrained weights count as step 0, so a stage never hands on something worse than it got.
    Returns valid N@10 before and after, the best step, and the number of steps run. Where
    `stopping()` is true on any rank, all keep a checkpoint before the next step and raise
    `StoppedError`.
    """
    best_dir = run_dir / plan.name
    if engine.world.is_first:
        settle_model(best_dir)
    folder = run_dir / "checkpoints" / plan.name
    state = _restore(plan, engine, table, folder) if resume else None
    journal.rewind(plan.name, -1 if state is None else state.step)
    if state is None:
        state = _Progress()
        _judge(plan, engine, tokenizer, journal, state, best_dir)
        state.first = state.best
    with _bar(plan, engine, state) as advance:
        _run_steps(
            plan, engine, table, tokenizer, journal, state, folder, best_dir, stopping, advance
        )
    if state.judged < state.step:
        _judge(plan, engine, tokenizer, journal, state, best_dir)
    return {
        "valid_ndcg@10_before": state.first,
        "valid_ndcg@10": state.best,
        "best_step": float(state.best_step),
        "steps": float(state.step),
    }


def _run_steps(
    plan: StagePlan,
    engine: Engine,
    table: ItemTable,
    tokenizer: Any,
    journal: Journal,
    state: _Progress,
    folder: Path,
    best_dir: Path,
    stopping: Callable[[], bool],
    advance: Callable[[int], None] | None,
) -> None:
    """Steps, evaluations and checkpoints until the stage is over; `state` goes along."""
    clock = _Clock(state.seconds)
    last_line = time.monotonic()
    while not _is_over(plan, state):
        if any(engine.world.gather(stopping())):
            _save(plan, engine, table, folder, state)
            raise StoppedError(
                f"{plan.name} stopped after step {state.step}; go on with: the same command and"
                " --resume"
            )
        start, cpu_start = time.monotonic(), time.process_time()
        figures = plan.run_step(state.step)
        state.step += 1
        figures["step_seconds"] = time.monotonic() - start
        journal.log_step(plan.name, state.step, figures)
        if advance is not None:
            advance(1)
        elif engine.world.is_first and time.monotonic() - last_line > LINE_EVERY_SECONDS:
            last_line = time.monotonic()
            _LOG.info("%s step %d of %d: %s", plan.name, state.step, plan.steps, _line(figures))
        spent = engine.world.gather((clock.seconds(), time.process_time() - cpu_start))
        state.seconds = max(seconds for seconds, _ in spent)
        state.cpu_seconds += sum(seconds for _, seconds in spent)
        if state.step % plan.eval_every == 0 or _is_over(plan, state):
            _judge(plan, engine, tokenizer, journal, state, best_dir)
        if state.step % plan.checkpoint_every == 0 and not _is_over(plan, state):
            _save(plan, engine, table, folder, state)


@contextmanager
def _bar(
    plan: StagePlan, engine: Engine, state: _Progress
) -> Iterator[Callable[[int], None] | None]:
    """A bar with rate and time left on the first rank's terminal; None elsewhere, for lines."""
    if not (engine.world.is_first and sys.stderr.isatty()):
        yield None
        return
    with progress(plan.name, plan.steps) as advance:
        advance(state.step)
        yield advance


class _Clock:
    """Wall time of a stage over all its starts."""

    def __init__(self, before: float) -> None:
        self._start = time.monotonic() - before

    def seconds(self) -> float:
        """Seconds in the stage so far."""
        return time.monotonic() - self._start


def _is_over(plan: StagePlan, state: _Progress) -> bool:
    """Whether the stage runs no further step; the same on all ranks, for `state` is."""
    if plan.max_seconds and state.seconds >= plan.max_seconds:
        return True
    if plan.max_cpu_seconds and state.cpu_seconds >= plan.max_cpu_seconds:
        return True
    return state.step >= plan.steps or bool(plan.patience and state.since_best >= plan.patience)


def _judge(
    plan: StagePlan,
    engine: Engine,
    tokenizer: Any,
    journal: Journal,
    state: _Progress,
    best_dir: Path,
) -> None:
    """Evaluate the current weights; keep them if they are the best so far."""
    ranks = plan.evaluate()
    value = float(ndcg_at_k(ranks, 10).mean())
    hits = float(hit_rate_at_k(ranks, 10).mean())
    journal.log_step(plan.name, state.step, {"valid_ndcg@10": value, "valid_hit_rate@10": hits})
    state.since_best += 1
    state.judged = state.step
    if value > state.best:
        state.best, state.best_step, state.since_best = value, state.step, 0
        with engine.whole_weights():
            if engine.world.is_first:
                card = plan.card({"valid_ndcg@10": value, "valid_hit_rate@10": hits})
                save_model(best_dir, engine.model, tokenizer, card)
        engine.world.barrier()
    if engine.world.is_first:
        _LOG.info(
            "%s step %d: valid N@10 %.4f, H@10 %.4f (%d sequences; best %.4f at step %d)",
            plan.name,
            state.step,
            value,
            hits,
            len(ranks),
            state.best,
            state.best_step,
        )


def _save(
    plan: StagePlan, engine: Engine, table: ItemTable, folder: Path, state: _Progress
) -> None:
    values = {name: getattr(state, name) for name in _Progress.__slots__}
    tensors = {"table_IH": table.table_IH}
    engine.save(folder / f"step-{state.step:08d}", values, tensors, plan.keep)


def _restore(plan: StagePlan, engine: Engine, table: ItemTable, folder: Path) -> _Progress | None:
    """Newest whole checkpoint of this stage."""
    path = engine.newest(folder)
    if path is None:
        return None
    values, tensors = engine.load(path)
    table.table_IH = tensors["table_IH"].to(engine.model.device)
    state = _Progress(**values)
    if engine.world.is_first:
        _LOG.info("%s: resumed after step %d from %s", plan.name, state.step, path)
    return state


def _line(figures: dict[str, float | None]) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in figures.items() if v is not None)


def peak_memory_bytes() -> float:
    """Peak memory of this process: on the GPU where there is one, else resident memory."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
