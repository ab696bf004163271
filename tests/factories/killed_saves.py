"""Starts of one training, each killed (SIGKILL) at another place in the writing of a checkpoint.

Run as `-m tests.factories.killed_saves FOLDER ARGUMENTS...`, which are those of `r2ec-cli train`
but `--output`: `FOLDER/straight` is never killed, `FOLDER/killed` at every point of `POINTS` in
turn, and then no more. What start n prints is in `FOLDER/start-n.log`. One process that has
imported everything forks them all: a start costs its training alone.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401
import torch

import r2ec.recpo.train  # noqa: F401
from r2ec.cli.main import run

# (what is cut in two, or what it dies just before; in which checkpoint of this start).
POINTS = (
    ("weights", 1),
    ("nothing", 2),
    ("weights", 2),
    ("optimizer", 2),
    ("tensors", 2),
    ("manifest", 2),
    ("rename", 2),
    ("removal", 2),
)
_FILES = {"weights": "model_states", "optimizer": "optim_states", "tensors": "tensors.pt"}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(point: str, number: int) -> None:
    """Have this process killed at `point` of its `number`-th checkpoint (from 1)."""
    seen, removals, is_dying = set[str](), 0, False

    def watch(event: str, details: tuple[Any, ...]) -> None:
        nonlocal removals, is_dying
        path = Path(str(details[0])) if details else Path()
        if event == "os.mkdir" and path.name.startswith("_step-"):
            seen.add(path.name)  # tried once more where its parent is not there yet
        if len(seen) != number or is_dying or event == "os.kill":
            return
        if point == "nothing":
            die()
        if point == "rename" and event == "os.rename" and path.name.startswith("_step-"):
            die()
        if point == "manifest" and event == "open" and path.name == "complete.json":
            is_dying = True
            path.write_text('{"state": {"step": ')
            die()
        if event == "shutil.rmtree" and path.name.startswith("step-"):
            removals = 1 if path.exists() else 0
        elif event == "os.remove" and removals:
            removals += 1
            if point == "removal" and removals > 2:
                die()

    save: Callable[..., None] = torch.save

    def cut(value: Any, file: Any, *more: Any, **options: Any) -> None:
        save(value, file, *more, **options)
        if len(seen) == number and point in _FILES and _FILES[point] in str(file):
            os.truncate(file, Path(file).stat().st_size // 2)
            die()

    torch.save = cut
    sys.addaudithook(watch)


def start(log: Path, arguments: list[str], doom: Callable[[], None] | None) -> int:
    """Exit code of one start, negative where a signal ended it; `doom` is called before it."""
    child = os.fork()
    if child == 0:
        with log.open("wb") as printed:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
        if doom is not None:
            doom()
        sys.exit(run(arguments))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def main(folder: Path, *arguments: str) -> None:
    """Everything; ends with an error where a start was not killed, or failed."""
    command = ["train", *arguments, "--resume", "--output"]
    assert start(folder / "straight.log", [*command, str(folder / "straight")], None) == 0
    for number, point in enumerate([*POINTS, None]):
        log = folder / f"start-{number}.log"
        doom = None if point is None else partial(kill_at, *point)
        code = start(log, [*command, str(folder / "killed")], doom)
        assert code == (-signal.SIGKILL if point else 0), (point, code, log.read_text()[-3000:])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
