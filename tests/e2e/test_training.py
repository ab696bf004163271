"""Training as people run it: one process or two, killed and resumed, saved and opened again."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from r2ec import schemas
from r2ec.config import TrainConfig
from r2ec.errors import UsageError
from r2ec.model.checkpoint import load_model
from r2ec.recpo.batches import batch_at
from r2ec.recpo.checkpoints import checkpoints
from r2ec.recpo.run_folder import prepare_run_dir
from r2ec.storage import Warehouse
from r2ec.tables import load_examples
from tests.factories.commands import REPOSITORY, cli, finish, metric_lines, start
from tests.factories.killed_saves import POINTS
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
UNSTEADY = ("second", "memory")


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


@pytest.fixture(scope="module")
def two(place: Path) -> str:
    """The same run in two processes, into `two`; what they printed."""
    return finish(start(*train_command(place, "two"), processes=2))


def steady(line: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in line.items() if not any(word in k for word in UNSTEADY)}


def test_the_delivered_model_is_evaluated_once_at_the_end_as_evaluate_does_it(
    place: Path, straight: Path, two: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert two.count("test, once at the end: N@10") == 1, "one of two processes tells it"
    capsys.readouterr()
    at = ("--warehouse", place / "warehouse", "--model", straight)
    written = Warehouse(str(place / "warehouse")).read_table(schemas.METRICS).to_pylist()
    for split in ("valid", "test"):
        assert cli("evaluate", *at, "--split", split, "--format", "json") == 0
        again = json.loads(capsys.readouterr().out)
        rows = {
            row["metric"]: row["value"]
            for row in written
            if row["run_id"] == again["run_id"] and row["split"] == split
        }
        assert rows == {row["metric"]: row["value"] for row in again["metrics"]}


def test_a_summary_is_told_once_and_not_by_every_process(two: str) -> None:
    for stage in ("contrastive", "recpo"):
        assert two.count(f"{stage}: valid N@10") == 1


def test_two_processes_give_the_losses_and_gradients_of_one(
    place: Path, straight: Path, two: str
) -> None:
    assert_same_losses(straight.with_name("straight.run"), place / "two.run")


def assert_same_losses(ours: Path, theirs: Path) -> None:
    """Every figure of two runs, up to what rounding makes of another cut of the batch."""
    one, two = metric_lines(ours), metric_lines(theirs)
    assert [(a["stage"], a["step"]) for a in one] == [(b["stage"], b["step"]) for b in two]
    compared = 0
    for a, b in zip(one, two, strict=True):
        if a["stage"] == "recpo" and a["step"] > 3:
            continue  # Adam and sampling blow rounding up with every step from here on
        for name, value in steady(a).items():
            if isinstance(value, float):
                # The token loss adds terms of a group that cancel, one for each token.
                terms = 1 + 2 * a["reasoning_tokens"] if name == "token_loss" else 1
                expected = pytest.approx(value, rel=2e-3, abs=1e-4 * terms)
                assert b[name] == expected, (a["step"], name)
                compared += 1
    assert compared > 60


@pytest.mark.slow
def test_the_deepspeed_launcher_and_partitioned_weights_give_the_same_losses(
    place: Path, straight: Path
) -> None:
    """ZeRO 3 trains, evaluates, keeps and delivers whole models."""
    launcher = [Path(sys.executable).with_name("deepspeed"), "--num_gpus=2"]
    launcher += ["--master_port", free_port(), "--module"]
    command = train_command(place, "three", "--set", "engine.zero_stage=3")
    ran = subprocess.run(
        [*map(str, launcher), "r2ec", *map(str, command)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-4000:]
    assert_same_losses(straight.with_name("straight.run"), place / "three.run")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        one, three = (
            AutoModelForCausalLM.from_pretrained(place / name / "contrastive")(input_ids=ids).logits
            for name in ("straight.run", "three.run")
        )
    assert torch.allclose(one, three, atol=1e-3)


def start_ranks(command: list[object], *launcher: str) -> "list[subprocess.Popen[str]]":
    """Two ranks without a launcher that would end one with the other."""
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [sys.executable, "-m", *launcher, *map(str, command)],
            cwd=REPOSITORY,
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


def end_all(ranks: "list[subprocess.Popen[str]]") -> None:
    for rank in ranks:
        rank.kill()
        rank.communicate()


@pytest.mark.parametrize(
    ("loss", "seconds", "reason"),
    [(signal.SIGKILL, 100, "Connection|Read error"), (signal.SIGSTOP, 8, "Timed out")],
)
def test_a_lost_peer_ends_the_other_rank_and_the_run_goes_on(
    place: Path, two: str, loss: signal.Signals, seconds: int, reason: str
) -> None:
    """Killed, its connections close; stopped, it is silent for `engine.timeout_seconds`."""
    name = loss.name
    more = ("--set", f"engine.timeout_seconds={seconds}")
    ranks = start_ranks(train_command(place, name, *more), "r2ec")
    try:
        wait_for_step(place / f"{name}.run", "contrastive", 3, ranks[0])
        ranks[1].send_signal(loss)
        printed, _ = ranks[0].communicate(timeout=200)
        assert ranks[0].returncode == 75, printed[-3000:]
        gone = rf"(?m)^error: another process of this run is gone.* for {seconds} s .*({reason})"
        assert re.search(rf"{gone}.*--resume$", printed), printed[-3000:]
        assert "Traceback" not in printed
    finally:
        end_all(ranks)
    if loss == signal.SIGSTOP:
        return
    finish(start(*train_command(place, name, *more, "--resume"), processes=2))
    lines = [steady(line) for line in metric_lines(place / f"{name}.run")]
    assert lines == [steady(line) for line in metric_lines(place / "two.run")]


def test_a_loss_that_is_no_number_on_one_rank_stops_both_before_the_step(place: Path) -> None:
    """They end alike, and both logs name the sequences of that rank's batch."""
    more = ("--set", "contrastive.steps=0", "--set", "checkpoint.every_steps=1")
    # Of five users a step rank 1 has two, in two micro-batches: the third is that of step 2.
    micro = ("--set", "recpo.micro_batch_rows=3", "--set", "recpo.updates_per_rollout=1")
    command = train_command(place, "nan", *more, *micro)
    ranks = start_ranks([3, *command], "tests.factories.faulty_rank")
    try:
        printed = [rank.communicate(timeout=200)[0] for rank in ranks]
    finally:
        end_all(ranks)
    assert [rank.returncode for rank in ranks] == [1, 1], printed
    users = batch_at(load_examples(Warehouse(str(place / "warehouse")), "train"), 1, 5, seed=0)
    batch = ", ".join(f"{user.sequence_id} ({user.history.user_id})" for user in users[1::2])
    for text in printed:
        assert f"batch, rank 1: {batch}. Lower" in text
        assert "all ranks stopped before the optimizer step" in text
        assert "Traceback" not in text
    run_dir = place / "nan.run"
    assert [line["step"] for line in metric_lines(run_dir) if "reward_mean" in line] == [1]
    assert [path.name for path in checkpoints(run_dir / "checkpoints/recpo")] == ["step-00000001"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_a_killed_run_resumes_bit_for_bit(
    place: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it lives no other training may write there; dead, it hinders none."""
    process = start(*train_command(place, "killed"))
    wait_for_step(place / "killed.run", "recpo", 5, process)
    process.send_signal(signal.SIGSTOP)
    for more in ("--resume", "--fresh"):
        assert cli(*train_command(place, "killed", more)) == 3
        told = capsys.readouterr().err
        assert f"another training is at work in {place / 'killed.run'}: process {process.pid}" in (
            told
        )
        assert "give another --output" in told
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


def test_a_run_killed_anywhere_in_the_writing_of_a_checkpoint_goes_on_from_the_one_before(
    place: Path,
) -> None:
    """To the same figures and weights as a run that nothing happened to, to the last bit."""
    folder = place / "saves"
    folder.mkdir()
    more = ("--set", "contrastive.steps=0", "--set", f"recpo.steps={len(POINTS) + 2}")
    more += ("--set", "checkpoint.every_steps=1", "--set", "recpo.updates_per_rollout=1")
    more += ("--set", "evaluation.at_end=false", "--set", "evaluation.max_valid_users=8")
    _, *arguments = train_command(place, "unused", *more)
    ran = subprocess.run(
        [sys.executable, "-m", "tests.factories.killed_saves", folder, *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-4000:]
    # Each start but the first keeps one checkpoint and dies at the next.
    before = 0
    for number, (point, _) in enumerate(POINTS):
        told = (folder / f"start-{number + 1}.log").read_text()
        leaves_rest = point not in ("nothing", "removal")
        assert ("was not written to its end" in told) == leaves_rest, (point, told)
        before += {0: 0, len(POINTS) - 1: 2}.get(number, 1)
        assert ("resumed after step" in told) == (before > 0), (point, told)
        assert before == 0 or f"resumed after step {before} " in told, (point, told)
    lines = [[steady(a) for a in metric_lines(folder / f"{n}.run")] for n in ("killed", "straight")]
    assert lines[0] == lines[1]
    one, other = (load_file(folder / n / "model.safetensors") for n in ("straight", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_adapters_killed_anywhere_between_start_and_end_are_those_of_a_run_left_alone(
    place: Path,
) -> None:
    """Within steps, behind validations, as models are put into place, between the stages."""
    folder = place / "anywhere"
    folder.mkdir()
    more = ["--config", str(place / "anywhere.toml"), "--set", "contrastive.steps=3"]
    more += ["--set", "recpo.steps=3", "--set", "checkpoint.every_steps=1"]
    more += ["--set", "contrastive.lr=1e-2", "--set", "recpo.lr=1e-2"]
    more += ["--set", "contrastive.eval_every=1", "--set", "recpo.eval_every=1"]
    more += ["--set", "evaluation.at_end=false", "--set", "evaluation.max_valid_users=8"]
    (place / "anywhere.toml").write_text(CONFIG + LORA)
    _, *arguments = train_command(place, "unused", *more)
    ran = subprocess.run(
        [sys.executable, "-m", "tests.factories.killed_runs", folder, *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-4000:]
    kills = (folder / "kills.txt").read_text().splitlines()
    models = {f"model {name}" for name in ("contrastive", "recpo", "killed")}
    assert set(kills) == {"journal", "stage over", *models}, kills
    lines = [[steady(a) for a in metric_lines(folder / f"{n}.run")] for n in ("killed", "straight")]
    assert lines[0] == lines[1]
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        one, other = (load_file(folder / n / name) for n in ("straight", "killed"))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_told_to_stop_on_one_rank_stops_on_both_and_goes_on(place: Path, two: str) -> None:
    process = start(
        *("torchrun", "--standalone", "--nproc-per-node=2", "-m", "r2ec"),
        *train_command(place, "stopped"),
    )
    wait_for_step(place / "stopped.run", "recpo", 3, process)
    os.kill(child_of(process.pid, "RANK=1"), signal.SIGTERM)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 75, printed[-3000:]
    kept = max((place / "stopped.run/checkpoints/recpo").iterdir()).name
    finish(start(*train_command(place, "stopped", "--resume"), processes=2))
    assert f"stopped after step {int(kept.removeprefix('step-'))}" in printed
    lines = [steady(line) for line in metric_lines(place / "stopped.run")]
    assert lines == [steady(line) for line in metric_lines(place / "two.run")]


def child_of(parent: int, variable: str) -> int:
    """Process below `parent` whose environment holds `variable`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, environment = (folder / "stat").read_text(), (folder / "environ").read_bytes()
        except OSError:
            continue
        ours = int(stat.rpartition(")")[2].split()[1]) == parent
        if ours and variable.encode() in environment.split(b"\0"):
            return int(folder.name)
    raise AssertionError(f"no child of {parent} with {variable}")


def test_a_run_killed_before_its_first_checkpoint_tells_each_step_once(
    place: Path, straight: Path
) -> None:
    more = ("--set", "contrastive.steps=0", "--set", "recpo.steps=2", "--set", "seed=3")
    process = start(*train_command(place, "early", *more))
    wait_for_step(place / "early.run", "recpo", 0, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start(*train_command(place, "early", *more, "--resume")))
    told = [line["step"] for line in metric_lines(place / "early.run") if "valid_ndcg@10" in line]
    assert told == [0, 2]


LORA = """
[model.lora]
rank = 2
target_modules = ["q_proj", "v_proj", "down_proj"]
"""


def base_of(adapter: Path) -> Path:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    return Path(settings["base_model_name_or_path"])


def test_the_adapter_of_a_run_does_on_the_base_model_what_the_run_delivered(place: Path) -> None:
    (place / "lora.toml").write_text(CONFIG + LORA)
    base = os.path.relpath(place / "base", REPOSITORY)
    more = ("--config", place / "lora.toml", "--base-model", base)
    # Steps enough that the best weights by valid N@10 are never those it began with.
    more += ("--set", "contrastive.lr=1e-2", "--set", "contrastive.steps=24")
    more += ("--set", "recpo.lr=1e-2", "--set", "recpo.steps=3")
    finish(start(*train_command(place, "lora", *more)))
    adapter = place / "lora" / "adapter"
    named = Path(
        json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    )
    assert named == (place / "base").resolve()
    stage = json.loads((place / "lora.run" / "recpo/adapter/adapter_config.json").read_text())
    assert stage["base_model_name_or_path"] == str((place / "lora.run/contrastive").resolve())
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        untrained = AutoModelForCausalLM.from_pretrained(named)
        before = untrained(input_ids=ids).logits
        delivered = AutoModelForCausalLM.from_pretrained(place / "lora")(input_ids=ids).logits
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            adapted = peft.PeftModel.from_pretrained(untrained, str(adapter))
        assert torch.allclose(adapted(input_ids=ids).logits, delivered, atol=1e-4)
    assert not torch.allclose(before, delivered, atol=1e-3), "training moved the weights"


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


def test_a_fresh_run_leaves_nothing_of_the_one_before_but_the_lock(tmp_path: Path) -> None:
    config = TrainConfig.model_validate({"paths": {"output": str(tmp_path / "model")}})
    run_dir = config.paths.resolved_run_dir
    for name in ("_lock/train.json", "checkpoints/recpo/step-1/a", "metrics.jsonl"):
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).touch()
    (run_dir / "link").symlink_to(tmp_path)
    prepare_run_dir(config, run_dir, resume=False, fresh=True)
    assert sorted(path.name for path in run_dir.iterdir()) == ["_lock", "config.json"]
    assert [path.name for path in run_dir.glob("_lock/*")] == ["train.json"]


def test_a_run_of_a_version_without_some_setting_may_be_resumed_at_its_default(
    tmp_path: Path,
) -> None:
    paths = {"output": str(tmp_path / "model")}
    config = TrainConfig.model_validate({"paths": paths})
    run_dir = config.paths.resolved_run_dir
    prepare_run_dir(config, run_dir, resume=False, fresh=False)
    stored = json.loads((run_dir / "config.json").read_text())
    del stored["contrastive"]["rationale_share"]
    (run_dir / "config.json").write_text(json.dumps(stored))
    prepare_run_dir(config, run_dir, resume=True, fresh=False)
    rationales = {"rationale_share": 0.5, "reasoning_share": 0.5}
    other = TrainConfig.model_validate({"paths": paths, "contrastive": rationales})
    with pytest.raises(UsageError, match=r"rationale_share was 0\.0, now 0\.5"):
        prepare_run_dir(other, run_dir, resume=True, fresh=False)


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
