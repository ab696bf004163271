"""Runs a piece of work in a process that dies just before its n-th step on the file system.

The steps are those Python itself announces (audit events): opening a file for writing, renaming,
removing, making a folder. Nothing in the code under test knows about it.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerContext

KILLED = 137
_STEPS = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link"})


def run_and_kill(work: Callable[..., object], *args: object, step: int, root: str) -> bool:
    """Run `work(*args)` up to its `step`-th file system step (from 1) under `root`.

    True when the process was killed there, False when it ended before.
    """
    process = _context().Process(target=_doomed, args=(work, args, step, root))
    process.start()
    process.join()
    assert process.exitcode in (0, KILLED), f"the work failed with exit code {process.exitcode}"
    return process.exitcode == KILLED


def start(work: Callable[..., object], *args: object) -> "multiprocessing.process.BaseProcess":
    """Start `work(*args)` in a process of its own."""
    process = _context().Process(target=work, args=args)
    process.start()
    return process


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["r2ec.infer.publish", "tests.factories.scored"])
    return context


def _doomed(work: Callable[..., object], args: tuple[object, ...], step: int, root: str) -> None:
    left = step

    def watch(event: str, details: tuple[object, ...]) -> None:
        nonlocal left
        if not details or not str(details[0]).startswith(root):
            return
        is_writing = event == "open" and isinstance(details[1], str) and "w" in details[1]
        if event in _STEPS or is_writing:
            left -= 1
            if left == 0:
                os._exit(KILLED)

    sys.addaudithook(watch)
    work(*args)
