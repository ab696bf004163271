"""A study as people run it: stopped in the middle of a training, gone on with, compared."""

import json
import os
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.factories.commands import cli, finish, start
from tests.factories.models import PROMPT, small_model
from tests.factories.shop import write_shop

pytestmark = pytest.mark.e2e

CONFIG = f"""
[prompt]
history_items = {PROMPT.history_items}
title_chars = {PROMPT.title_chars}
description_chars = {PROMPT.description_chars}
max_prompt_tokens = {PROMPT.max_prompt_tokens}
[model]
dtype = "float32"
[contrastive]
steps = 40
batch_users = 4
micro_batch_users = 4
lr = 1e-3
eval_every = 20
[recpo]
steps = 0
[evaluation]
reasoning_budget = 4
"""
STUDY = """
title = "Small"
question = "Does it go on?"
config = "{folder}/train.toml"
warehouse = "{folder}/warehouse"
base_model = "{folder}/base"
seeds = [1]
[[rows]]
name = "popularity"
baseline = "popularity"
[[rows]]
name = "trained"
[[rows]]
name = "trained on"
start = "trained"
settings = {{ "contrastive.steps" = 2 }}
budgets = [0, 2]
"""


def trainings() -> list[int]:
    """Process ids of trainings that read this test's configuration."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"train" in words and str(os.getpid()).encode() in b"".join(words):
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_a_stopped_study_leaves_no_run_behind_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / str(os.getpid())
    folder.mkdir()
    write_shop(str(folder / "warehouse"))
    model, encoder = small_model(initializer_range=0.05)
    model.causal_lm.save_pretrained(folder / "base")
    encoder.tokenizer.save_pretrained(folder / "base")
    (folder / "train.toml").write_text(CONFIG)
    (folder / "study.toml").write_text(STUDY.format(folder=folder))
    command = ("study", folder / "study.toml", "--output", folder / "out", "--jobs", "2")

    study = start(*command)
    runs = folder / "out" / "runs"
    deadline = time.monotonic() + 400
    while not (steps := list(runs.glob("trained-seed1-*/model.run/metrics.jsonl"))):
        assert time.monotonic() < deadline
        assert study.poll() is None
        time.sleep(0.05)
    assert cli(*command) == 3, "one study at a time in a folder"
    told = f"another study is at work in {folder / 'out'}: process {study.pid} on "
    assert told in capsys.readouterr().err
    study.send_signal(signal.SIGTERM)
    output, _ = study.communicate(timeout=400)
    assert study.returncode == 75, output
    assert not trainings()
    assert not list(runs.glob("trained-on-*/done.json"))
    before = steps[0].read_text()
    assert len(before.splitlines()) < 40, "stopped, not waited for"

    output = finish(start(*command))
    assert "popularity-seed1" in output
    whole = steps[0].read_text()
    told = [json.loads(line)["step"] for line in whole.splitlines() if "item_loss" in line]
    assert told == list(range(1, 41)), "each step once, though it was stopped in between"
    assert whole.startswith(before.splitlines()[0])
    table = pq.read_table(folder / "out" / "table.parquet").to_pylist()
    assert {row["row"] for row in table} == {
        "popularity",
        "trained",
        "trained on, 0 tokens",
        "trained on, 2 tokens",
    }
    assert (folder / "out" / "picture.png").stat().st_size > 10_000
    assert "done before" in finish(start(*command))
