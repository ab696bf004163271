"""A stage that was killed and started again tells each step once."""

import logging
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from r2ec.errors import R2ecError, StoppedError
from r2ec.model.card import ModelCard
from r2ec.model.memory import TRAINING_ADVICE, memory_advice
from r2ec.recpo.checkpoints import checkpoints
from r2ec.recpo.engine import Engine, World
from r2ec.recpo.journal import Journal
from r2ec.recpo.stage import StagePlan, run_stage
from r2ec.retrieval.embed import encode_rows
from tests.factories import ranks
from tests.factories.commands import metric_lines
from tests.factories.models import PROMPT, small_model
from tests.factories.training import training_bench


class KilledError(Exception):
    """Stands for the end of the process."""


def never() -> bool:
    return False


def plan_of(run_step, *, steps=3, patience=0, max_seconds=0.0, max_cpu_seconds=0.0) -> StagePlan:
    return StagePlan(
        name="recpo",
        steps=steps,
        eval_every=2,
        patience=patience,
        max_seconds=max_seconds,
        max_cpu_seconds=max_cpu_seconds,
        checkpoint_every=2,
        keep=1,
        run_step=run_step,
        evaluate=lambda: np.array([3, 20]),
        card=lambda metrics: ModelCard(
            tau=0.1,
            marker="<answer>",
            prompt=PROMPT.model_dump(),
            template_version="1",
            catalog_version="2024-05-31",
            catalog_fingerprint="",
            catalog_items=0,
            metrics=metrics,
        ),
    )


@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_a_killed_stage_that_resumes_tells_each_step_once(
    world: World, tmp_path: Path, killed_at: int
) -> None:
    bench = training_bench(world, num_users=1, group_size=2)

    def killed(step: int) -> dict[str, float | None]:
        if step == killed_at:
            raise KilledError
        return {"reward_mean": float(step)}

    def run(run_step, *, resume: bool) -> None:
        journal = Journal(tmp_path, active=True)
        journal.log_step("contrastive", 9, {"item_loss": 1.0})
        tokenizer = bench.encoder.tokenizer
        plan = plan_of(run_step)
        run_stage(
            plan,
            bench.engine,
            bench.table,
            tokenizer,
            journal,
            tmp_path,
            resume=resume,
            stopping=never,
        )
        journal.close()

    with pytest.raises(KilledError):
        run(killed, resume=False)
    run(lambda step: {"reward_mean": float(step)}, resume=True)
    lines = [line for line in metric_lines(tmp_path) if line["stage"] == "recpo"]
    told = [(line["step"], "reward_mean" in line) for line in lines]
    assert told == [(0, False), (1, True), (2, True), (2, False), (3, True), (3, False)]
    assert sum(line["stage"] == "contrastive" for line in metric_lines(tmp_path)) == 2


def test_a_stage_out_of_time_evaluates_and_ends_also_over_a_resume(
    world: World, tmp_path: Path
) -> None:
    bench = training_bench(world, num_users=1, group_size=2)
    done: list[int] = []

    def run(fails_at: int, *, resume: bool) -> dict[str, float]:
        def run_step(step: int) -> dict[str, float | None]:
            if step == fails_at:
                raise KilledError
            time.sleep(0.4)
            done.append(step)
            return {}

        journal = Journal(tmp_path, active=True)
        plan = plan_of(run_step, steps=1000, max_seconds=1.5)
        try:
            return run_stage(
                plan,
                bench.engine,
                bench.table,
                bench.encoder.tokenizer,
                journal,
                tmp_path,
                resume=resume,
                stopping=never,
            )
        finally:
            journal.close()

    with pytest.raises(KilledError):
        run(2, resume=False)
    figures = run(1000, resume=True)
    assert figures["steps"] <= 4, "the 0.8 s before the end of the process count"
    assert done == list(range(int(figures["steps"])))
    judged = [line["step"] for line in metric_lines(tmp_path) if "valid_ndcg@10" in line]
    assert judged[-1] == figures["steps"], "the last weights were evaluated"
    assert judged == sorted(set(judged))


def test_patience_ends_a_stage_that_does_not_get_better(world: World, tmp_path: Path) -> None:
    bench = training_bench(world, num_users=1, group_size=2)
    journal = Journal(tmp_path, active=True)
    plan = plan_of(lambda step: {}, steps=1000, patience=2)
    tokenizer = bench.encoder.tokenizer
    figures = run_stage(
        plan, bench.engine, bench.table, tokenizer, journal, tmp_path, resume=False, stopping=never
    )
    journal.close()
    assert (figures["steps"], figures["best_step"]) == (4, 0)


@pytest.mark.parametrize("harm", ["cut", "missing", "changed", "manifest"])
def test_a_broken_checkpoint_is_passed_over_with_a_warning(
    world: World, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = training_bench(world, num_users=1, group_size=2)
    folder = tmp_path / "checkpoints"
    for step in (2, 4, 6):
        bench.engine.save(folder / f"step-{step:08d}", {"step": step}, {"a": torch.ones(3)}, 2)
    assert [path.name for path in checkpoints(folder)] == ["step-00000004", "step-00000006"]
    last = folder / "step-00000006"
    assert bench.engine.newest(folder) == last
    file = max((last / "engine").iterdir(), key=lambda path: path.stat().st_size)
    data = file.read_bytes()
    if harm == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif harm == "missing":
        file.unlink()
    elif harm == "changed":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        (last / "complete.json").write_text('{"state": {')
    logger = logging.getLogger("r2ec")
    logger.addHandler(caplog.handler)
    try:
        chosen = bench.engine.newest(folder)
    finally:
        logger.removeHandler(caplog.handler)
    assert chosen == folder / "step-00000004"
    assert "step-00000006 is broken" in caplog.text
    assert bench.engine.load(chosen)[0] == {"step": 4}


def test_a_stage_told_to_stop_keeps_its_last_step(world: World, tmp_path: Path) -> None:
    bench = training_bench(world, num_users=1, group_size=2)
    done: list[int] = []

    def run_step(step: int) -> dict[str, float | None]:
        done.append(step)
        return {}

    def run(stopping, *, resume: bool) -> dict[str, float]:
        journal = Journal(tmp_path, active=True)
        try:
            return run_stage(
                plan_of(run_step),
                bench.engine,
                bench.table,
                bench.encoder.tokenizer,
                journal,
                tmp_path,
                resume=resume,
                stopping=stopping,
            )
        finally:
            journal.close()

    with pytest.raises(StoppedError, match="after step 1"):
        run(lambda: len(done) == 1, resume=False)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"stage": "recpo", "st')
    assert run(never, resume=True)["steps"] == 3
    assert done == [0, 1, 2]
    assert [line["step"] for line in metric_lines(tmp_path)] == [0, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_the_norm_of_the_gradient_is_told_before_clipping(
    world: World, zero_stage: int, dtype: torch.dtype
) -> None:
    model, _ = small_model()
    model = model.to(dtype)
    engine = Engine(world, model, zero_stage=zero_stage, gradient_clipping=0.5, weight_decay=0.0)
    parameter = next(p for p in model.parameters())
    engine.backward(3.0 * parameter.flatten()[:16].sum())
    assert engine.step(0.0) == pytest.approx(12.0)


@pytest.mark.filterwarnings("ignore:`torch.distributed.*is deprecated:FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_ends_the_run_and_moves_no_weight(
    world: World, zero_stage: int, dtype: torch.dtype, value: float
) -> None:
    """Finite loss or not: DeepSpeed would pass over the step, or take it, without a word."""
    model, _ = small_model()
    model = model.to(dtype)
    engine = Engine(world, model, zero_stage=zero_stage, gradient_clipping=0.5, weight_decay=0.0)
    with engine.whole_weights():
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine.backward(value * encode_rows(model, [[5, 6, 7]], pad_id=0).sum())
    with pytest.raises(R2ecError, match=r"norm of the gradient is .* took no step"):
        engine.step(0.1)
    with engine.whole_weights():
        after = dict(model.named_parameters())
        assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_contrastive_loss_that_is_no_number_stops_before_the_step(
    world: World, tmp_path: Path
) -> None:
    place = ranks.workplace(world, 0, 5, tmp_path)
    weight = place.engine.model.causal_lm.get_input_embeddings().weight
    with torch.no_grad():
        weight[:, 0] = float("nan")
    before = weight.detach().clone()
    batch = [f"{e.sequence_id} ({e.history.user_id})" for e in place.data.train]
    with pytest.raises(R2ecError, match=r"contrastive loss .* is \[nan, .*rank 0: ") as told:
        ranks.contrastive(place)
    place.journal.close()
    assert all(name in str(told.value) for name in batch)
    assert torch.equal(weight.nan_to_num(), before.nan_to_num())


@pytest.mark.filterwarnings("ignore:`torch.distributed.*is deprecated:FutureWarning")
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_the_backwards_of_a_step_add_up(world: World, zero_stage: int) -> None:
    model, _ = small_model()
    batches = [[[5, 6, 7]], [[5, 6], [7, 8, 9, 10]], [[11]]]

    def loss_of(rows: list[list[int]]) -> Tensor:
        states_BH = encode_rows(model, rows, pad_id=0)
        return states_BH[:, :4].sum() + model.logits(states_BH)[:, 3].sum()

    torch.stack([loss_of(rows) for rows in batches]).sum().backward()
    expected = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    model.zero_grad()
    engine = Engine(
        world,
        model,
        zero_stage=zero_stage,
        gradient_clipping=0.5,
        weight_decay=0.0,
        whole_up_to=0,
    )
    for step in range(2):
        for rows in batches:
            engine.backward(loss_of(rows))
        assert engine.step(0.0) == pytest.approx(expected.item(), rel=1e-5), step


@pytest.mark.filterwarnings("ignore:`torch.distributed.*is deprecated:FutureWarning")
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_closed_engine_keeps_nothing(world: World, zero_stage: int) -> None:
    """Or the weights and the optimizer of one stage would lie beside those of the next."""
    model, _ = small_model(seed=3)
    engine = Engine(world, model, zero_stage=zero_stage, gradient_clipping=1.0, weight_decay=0.0)
    ids = torch.tensor([[1, 2, 3, 4]])
    engine.backward(model.logits(model.hidden_states(ids, torch.ones_like(ids))[0]).sum())
    engine.step(1e-3)
    kept = [weakref.ref(model), weakref.ref(engine._engine), weakref.ref(next(model.parameters()))]
    del model
    engine.close()
    assert [reference() for reference in kept] == [None, None, None]


def test_a_failed_allocation_ends_with_advice() -> None:
    advice = r"out of memory .* lower recpo\.micro_batch_rows"
    with pytest.raises(R2ecError, match=advice), memory_advice(TRAINING_ADVICE):
        torch.empty(1 << 55, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="mat1"), memory_advice(TRAINING_ADVICE):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_a_stage_ends_after_the_processor_time_of_its_steps(world: World, tmp_path: Path) -> None:
    bench = training_bench(world, num_users=1, group_size=2)

    def busy(step: int) -> dict[str, float | None]:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        return {}

    journal = Journal(tmp_path, active=True)
    plan = plan_of(busy, steps=1000, max_cpu_seconds=0.7)
    figures = run_stage(
        plan,
        bench.engine,
        bench.table,
        bench.encoder.tokenizer,
        journal,
        tmp_path,
        resume=False,
        stopping=never,
    )
    journal.close()
    assert figures["steps"] == 4
