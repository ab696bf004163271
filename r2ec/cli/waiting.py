"""Waiting for other processes, so that a person at a terminal sees that they are at work."""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from r2ec.cli import screen
from r2ec.logs import cut, format_seconds

LOOK_EVERY_SECONDS = 0.1
TAIL_BYTES = 4096
SPINNER_WIDTH = 3
_TIME = re.compile(r"^(?:\d\d/\d\d/\d\d )?\d\d:\d\d:\d\d ")  # r2ec's, Spark's


def wait_for(
    processes: Sequence["subprocess.Popen[bytes]"], logs: Sequence[Path], title: str
) -> None:
    """Wait until all have ended, or one has failed.

    Writes the title. On a terminal the seconds and the newest line of the logs stand beside it
    meanwhile.
    """
    if not sys.stdout.isatty():
        click.echo(title, nl=False)
        while not _is_over(processes):
            time.sleep(LOOK_EVERY_SECONDS)
        return
    from rich.text import Text

    console, start = screen.console(), time.monotonic()
    with console.status(Text(title.strip())) as status:
        while not _is_over(processes):
            told = f"{title.strip()}  {format_seconds(time.monotonic() - start)}  {last_line(logs)}"
            status.update(Text(cut(told, console.width - SPINNER_WIDTH)))
            time.sleep(LOOK_EVERY_SECONDS)
    click.echo(title, nl=False)


def last_line(logs: Sequence[Path]) -> str:
    """The newest line that one of the logs ends with, as it can be shown."""
    newest = max(logs, key=lambda log: log.stat().st_mtime)
    with newest.open("rb") as stream:
        stream.seek(max(newest.stat().st_size - TAIL_BYTES, 0))
        lines = stream.read().decode("utf-8", "replace").splitlines()
    newest_line = next((line for line in reversed(lines) if line.strip()), "")
    return screen.printable(_TIME.sub("", newest_line))


def _is_over(processes: Sequence["subprocess.Popen[bytes]"]) -> bool:
    codes = [process.poll() for process in processes]
    return None not in codes or any(code not in (None, 0) for code in codes)
