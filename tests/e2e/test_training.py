"""Training as people run it: one process or two, killed and resumed, saved and opened again."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from r2ec.model.checkpoint import load_model
from tests.factories.commands import cli, finish, metric_lines, start
from tests.factories.models import PROMPT, TAU, small_model
from tests.factories.shop import write_shop

pytestmark = pytest.mark.e2e

CONFIG = f"""
[prompt]
history_items = {PROMPT.history_items}
title_chars = {PROMPT.title_chars}
description_chars = {PROMPT.description_chars}
max_prompt_tokens = {PROMPT.max_prompt_tokens}

[model]
tau = {TAU}
dtype = "float32"

[contrastive]
steps = 4
batch_users = 7
micro_batch_users = 2
lr = 1e-4
lm_weight = 0.5
reasoning_share = 0.5
history_dropout = 0.2
eval_every = 2

[recpo]
steps = 6
batch_users = 5
group_size = 3
micro_batch_rows = 4
lr = 1e-4
warmup_steps = 2
refresh_every = 3
eval_every = 3
updates_per_rollout = 2

[recpo.sampling]
temperature = 1.2
top_k = 50
max_new_tokens = 6

[checkpoint]
every_steps = 2

[evaluation]
reasoning_budget = 6
"""
UNSTEADY = ("seconds", "memory")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a warehouse, a base model of random weights and a configuration."""
    folder = tmp_path_factory.mktemp("training")
    write_shop(str(folder / "warehouse"))
    model, encoder = small_model(initializer_range=0.05)
    model.causal_lm.save_pretrained(folder / "base")
    encoder.tokenizer.save_pretrained(folder / "base")
    (folder / "train.toml").write_text(CONFIG)
    return folder


def train_command(place: Path, name: str, *more: str) -> list[object]:
    paths = ("--warehouse", place / "warehouse", "--base-model", place / "base")
    return ["train", "--config", place / "train.toml", *paths, "--output", place / name, *more]


@pytest.fixture(scope="module")
def straight(place: Path) -> Path:
    """A run in one process, from start to end; its output folder."""
    finish(start(*train_command(place, "straight")))
    return place / "straight"


def steady(line: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in line.items() if not any(word in k for word in UNSTEADY)}


def test_two_processes_give_the_losses_and_gradients_of_one(place: Path, straight: Path) -> None:
    finish(start(*train_command(place, "two"), processes=2))
    one = metric_lines(straight.with_name("straight.run"))
    two = metric_lines(place / "two.run")
    assert [(a["stage"], a["step"]) for a in one] == [(b["stage"], b["step"]) for b in two]
    compared = 0
    for a, b in zip(one, two, strict=True):
        if a["stage"] == "recpo" and a["step"] > 3:
            continue  # Adam and sampling blow rounding up with every step from here on
        for name, value in steady(a).items():
            if isinstance(value, float):
                assert b[name] == pytest.approx(value, rel=2e-3, abs=1e-4), (a["step"], name)
                compared += 1
    assert compared > 60


def test_a_killed_run_resumes_bit_for_bit(place: Path, straight: Path) -> None:
    process = start(*train_command(place, "killed"))
    wait_for_step(place / "killed.run", "recpo", 5, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    printed = finish(start(*train_command(place, "killed", "--resume")))
    assert "resumed after step 4" in printed
    lines = [steady(line) for line in metric_lines(place / "killed.run")]
    assert lines == [steady(line) for line in metric_lines(straight.with_name("straight.run"))]
    one, other = (
        load_file(straight.with_name(n) / "model.safetensors") for n in ("straight", "killed")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def wait_for_step(run_dir: Path, stage: str, step: int, process: Any) -> None:
    """Wait until a run has told this step."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0][-3000:]
        if (run_dir / "metrics.jsonl").exists() and any(
            line["stage"] == stage and line["step"] >= step for line in metric_lines(run_dir)
        ):
            return
        time.sleep(0.02)
    raise AssertionError("the run did not come to that step")


def test_transformers_alone_opens_what_is_saved(place: Path, straight: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(straight)
    alone = AutoModelForCausalLM.from_pretrained(straight)
    loaded = load_model(str(straight))
    ids = torch.tensor([tokenizer("printer ink")["input_ids"]])
    with torch.no_grad():
        own = loaded.model.logits(loaded.model.hidden_states(ids, torch.ones_like(ids))[0])
        assert torch.allclose(alone(input_ids=ids).logits[0], own, atol=1e-5)
    assert (
        loaded.card.metrics["recpo.valid_ndcg@10"]
        >= loaded.card.metrics["recpo.valid_ndcg@10_before"]
    )
    assert loaded.card.training["recpo"]["updates_per_rollout"] == 2


def test_the_weights_of_both_stages_moved(place: Path, straight: Path) -> None:
    lines = metric_lines(straight.with_name("straight.run"))
    ratios = [line["ratio_max"] for line in lines if line.get("ratio_max") is not None]
    assert max(ratios) > 1.0001, "the second update of a rollout batch has another ratio"
    assert all(line["grad_norm"] > 0 for line in lines if "grad_norm" in line)


def test_a_run_folder_in_use_is_not_overwritten(
    place: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (straight.with_name("straight.run") / "metrics.jsonl").read_bytes()
    assert cli(*train_command(place, "straight")) == 2
    assert "--resume" in capsys.readouterr().err
    assert cli(*train_command(place, "straight", "--resume", "--set", "recpo.beta=0.5")) == 2
    message = capsys.readouterr().err
    assert "recpo.beta was 0.05, now 0.5" in message
    assert (straight.with_name("straight.run") / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("recpo.betta=1", "recpo.betta"),
        ("recpo.beta=2", "less than or equal to 1"),
        ("model.marker='<é>'", "printable ASCII"),
        ("recpo.sampling.temperature=0", "temperature 0"),
        ("recpo", "section.key=value"),
    ],
)
def test_wrong_settings_are_named(
    place: Path, change: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*train_command(place, "wrong", "--set", change)) == 2
    assert words in capsys.readouterr().err


def test_missing_inputs_are_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*train_command(place, "none", "--warehouse", str(place / "nowhere"))) == 3
    assert "build_catalog" in capsys.readouterr().err
    assert cli(*train_command(place, "none", "--base-model", str(place / "nowhere"))) == 3
    assert "nowhere does not exist" in capsys.readouterr().err
    assert cli("train", "--config", place / "no.toml") == 3
    assert "no.toml does not exist" in capsys.readouterr().err
