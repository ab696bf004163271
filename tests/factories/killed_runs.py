"""Starts of one training, each killed (SIGKILL) somewhat later than the one before.

Run as `-m tests.factories.killed_runs FOLDER ARGUMENTS...`, which are those of `r2ec-cli train` but
`--output`: `FOLDER/straight` is never killed, start n of `FOLDER/killed` just before its 2n-th
notable act, or an earlier one of a kind that none was killed at. Notable are a line of the journal
(so within a step, or behind a validation), a best model or the delivered one put into place, a
stage noted as over. `FOLDER/kills.txt` says which acts they were, and `FOLDER/start-n.log` what was
printed.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tests.factories.killed_saves import start

MOST_STARTS = 40


def act_of(event: str, details: tuple[Any, ...]) -> str:
    """The notable act that an event of the interpreter begins, or nothing."""
    path = Path(str(details[0])) if details else Path()
    if event == "open" and path.name == "metrics.jsonl" and details[1] == "a":
        return "journal"
    if event != "os.rename":
        return ""
    if ".saving-" in path.name:
        return f"model {path.name.partition('.')[0]}"
    return "stage over" if path.name == "finished.writing" else ""


def kill_at(number: int, kills: Path) -> None:
    """Have this process killed at its `number`-th notable act (from 1), or the first of a kind."""
    seen, known = 0, set(kills.read_text().splitlines())

    def watch(event: str, details: tuple[Any, ...]) -> None:
        nonlocal seen
        act = act_of(event, details)
        if not act:
            return
        seen += 1
        if seen == number or act not in known:
            with kills.open("a") as told:
                told.write(f"{act}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def main(folder: Path, *arguments: str) -> None:
    """Everything; ends with an error where a start failed, or none came to the end."""
    command = ["train", *arguments, "--resume", "--output"]
    assert start(folder / "straight.log", [*command, str(folder / "straight")], None) == 0
    (folder / "kills.txt").touch()
    for number in range(1, MOST_STARTS):
        log = folder / f"start-{number}.log"
        doom = partial(kill_at, 2 * number, folder / "kills.txt")
        code = start(log, [*command, str(folder / "killed")], doom)
        if code == 0:
            return
        assert code == -signal.SIGKILL, (number, code, log.read_text()[-3000:])
    raise AssertionError(f"not at its end after {MOST_STARTS} starts")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
