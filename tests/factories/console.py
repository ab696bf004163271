"""Console blocks of a page: their commands, run in one shell, and the output that the page shows.

A line that begins with `$ ` is a command, `> ` goes on with it, all others are output.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.factories.commands import REPOSITORY

_VARYING = re.compile(r"(…|\b[0-9a-f]{12}\b|\b\d\d:\d\d:\d\d\b|\d[\d.,]*)")
_MARK = "=== command {} ==="


@dataclass(slots=True)
class Command:
    """A command as it is typed, and the lines of its output that the page shows."""

    text: str
    shown: list[str] = field(default_factory=list)


def console_commands(page: Path) -> list[Command]:
    """The commands of a page's console blocks, in order."""
    return commands_of(page.read_text("utf-8"))


def commands_of(text: str) -> list[Command]:
    """The commands of the console blocks of a part of a page, in order."""
    commands: list[Command] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                commands.append(Command(line[2:]))
            elif line.startswith(">"):
                commands[-1].text += "\n" + line[2:]
            elif line.strip():
                commands[-1].shown.append(line)
    return commands


def run_in_one_shell(
    commands: Sequence[Command], folder: Path, variables: Mapping[str, str]
) -> list[str]:
    """What each command printed, stderr included; asserts that none failed."""
    # The script of this tree, whatever r2ec-cli is installed.
    lines = ["set -e", f'r2ec-cli() {{ "{sys.executable}" -m r2ec "$@"; }}']
    for number, command in enumerate(commands):
        lines += [f"echo; echo '{_MARK.format(number)}'", command.text]
    script = folder / "commands.sh"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("R2EC_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        **variables,
    }
    done = subprocess.run(
        ["bash", script.name],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    outputs = re.split(_MARK.format(r"\d+") + "\n", done.stdout)[1:]
    assert len(outputs) == len(commands)
    return outputs


def first_not_found(shown: Sequence[str], output: str) -> str | None:
    """The first of the lines shown that the output does not have, in their order.

    `…` stands for anything. Fingerprints and times of the day may be others, and so may all numbers
    of a line with a decimal: it was measured.
    """
    lines = iter([" ".join(line.split()) for line in output.splitlines()])
    for line in shown:
        if not any(_pattern(line).fullmatch(found) for found in lines):
            return line
    return None


def _pattern(line: str) -> re.Pattern[str]:
    measured = re.search(r"\d\.\d", line) is not None
    parts = []
    for part in _VARYING.split(" ".join(line.split())):
        if part == "…":
            parts.append(".*")
        elif re.fullmatch("[0-9a-f]{12}", part):
            parts.append("[0-9a-f]{12}")
        elif re.fullmatch(r"\d\d:\d\d:\d\d", part):
            parts.append(r"\d\d:\d\d:\d\d")
        elif measured and part[:1].isdigit():
            parts.append(r"[\d.,]+(?:e-?\d+)?")
        else:
            parts.append(re.sub("─+", "─+", re.escape(part)))
    return re.compile("".join(parts))
