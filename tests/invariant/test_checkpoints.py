"""What stays on disk, whenever a process is killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from r2ec.model.card import ModelCard, load_card
from r2ec.model.checkpoint import save_model
from r2ec.recpo.checkpoints import checkpoints, settle_model
from r2ec.recpo.engine import World
from tests.factories.commands import REPOSITORY
from tests.factories.models import PROMPT, small_model
from tests.factories.training import training_bench


@pytest.mark.parametrize("keep", [1, 2])
def test_a_broken_checkpoint_that_was_passed_over_takes_no_whole_ones_place(
    world: World, tmp_path: Path, keep: int
) -> None:
    engine = training_bench(world, num_users=1, group_size=2).engine
    folder = tmp_path / "checkpoints"

    def save(step: int) -> None:
        engine.save(folder / f"step-{step:08d}", {"step": step}, {"a": torch.ones(3)}, keep)

    for step in (2, 4, 8):
        save(step)
    for name in ("complete.json", "tensors.pt"):
        (folder / "step-00000008" / name).write_bytes(b"{")
    save(5)
    save(6)
    assert engine.newest(folder) == folder / "step-00000006"
    save(8)
    kept = ["step-00000006", "step-00000008"][-keep:]
    assert [path.name for path in checkpoints(folder)] == kept
    assert engine.newest(folder) == folder / "step-00000008"


def test_a_checkpoint_is_not_written_a_second_time(world: World, tmp_path: Path) -> None:
    """Told to stop right after a resume: killed in the writing, it would leave none at all."""
    engine = training_bench(world, num_users=1, group_size=2).engine
    path = tmp_path / "step-00000002"
    engine.save(path, {"step": 2}, {}, 1)
    engine.load(path)
    before = {file: file.stat().st_ino for file in path.rglob("*")}
    engine.save(path, {"step": 2}, {}, 1)
    assert {file: file.stat().st_ino for file in path.rglob("*")} == before


def save(path: str, tau: float) -> None:
    """A model directory whose card has this tau."""
    model, encoder = small_model()
    card = ModelCard(
        tau=tau,
        marker="<answer>",
        prompt=PROMPT.model_dump(),
        template_version="1",
        catalog_version="2024-05-31",
        catalog_fingerprint="",
        catalog_items=0,
    )
    save_model(path, model, encoder.tokenizer, card)


# Dies when the model before has been moved away, and the new one is not in its place yet.
KILLED_BETWEEN = """
import os, signal, sys
from tests.invariant.test_checkpoints import save
def watch(event, details):
    if event == "os.rename" and ".saving-" in str(details[0]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
save(sys.argv[1], 0.2)
"""


def test_a_process_killed_as_it_replaces_a_model_leaves_the_one_before(tmp_path: Path) -> None:
    target = tmp_path / "best[1]"
    save(str(target), 0.1)
    command = [sys.executable, "-c", KILLED_BETWEEN, str(target)]
    killed = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    left = sorted(path.name.partition("]")[2].partition("-")[0] for path in tmp_path.iterdir())
    assert left == [".replaced", ".saving"]
    settle_model(target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert load_card(str(target)).tau == 0.1
