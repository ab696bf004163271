"""Command lines as pages and examples write them, held against the parsers that would read them.

Placeholders in capitals (PATH, DIR, D …) stand for values, a lone name for its command.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from r2ec.cli.main import cli
from r2ec.etl.arguments import parse_catalog_job, parse_sequences_job
from tests.factories.commands import REPOSITORY

JOBS = {
    "jobs/build_catalog.py": parse_catalog_job,
    "jobs/build_sequences.py": parse_sequences_job,
}
PROGRAMS = ("r2ec-cli", "spark-submit", "torchrun", "python benchmarks/", "make ")
# Options of a job that take a day: a placeholder there becomes one.
_DAYS = ("--date", "--version", "--catalog-version", "--since", "--until")


def command_lines(text: str) -> Iterator[str]:
    """Commands of a page: in console and bash blocks, indented, and between back-ticks."""
    for block in re.findall(r"^ *```(?:console|bash|shell)\n(.*?)^ *```", text, re.M | re.S):
        for line in re.sub(r"\\\n[> ]*", " ", block).splitlines():
            yield from _of_a_line(line.strip().removeprefix("$ "))
    without_blocks = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    for line in re.sub(r"\\\n +", " ", without_blocks).splitlines():
        if line.startswith("    "):
            yield from _of_a_line(line.strip())
    for quoted in re.findall(r"`([^`]+)`", without_blocks):
        yield from _of_a_line(" ".join(quoted.split()))


def _of_a_line(line: str) -> Iterator[str]:
    line = re.sub(r"\s#\s.*$", "", line)
    for part in re.split(r"\s(?:&&?|;|\|\|?)(?:\s|$)", line):
        part = re.sub(r"^(?:if|time|do|then|!|\w+=\S+)\s+", "", part.strip())
        if part.startswith(PROGRAMS) and "…" not in part:
            yield part


def check_command_line(line: str) -> None:
    """Raise where no program would take the line: `AssertionError`, or the parser's own error."""
    words = shlex.split(line)
    if words[0] == "torchrun" and "-m" in words:
        place = words.index("-m")
        assert words[place + 1] == "r2ec", line
        words = ["r2ec-cli", *words[place + 2 :]]
    if words[0] == "r2ec-cli" and len(words) > 1:
        _check_cli(cli, words[1:], line)
    elif words[0] == "spark-submit":
        _check_job(words, line)
    elif words[0] == "python":
        file = REPOSITORY / words[1]
        assert file.is_file(), line
        for option in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
            assert f'"{option}"' in file.read_text("utf-8"), f"{words[1]} has no {option}: {line}"
    elif words[0] == "make":
        targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.M)
        assert words[1] in targets or "=" in words[1], line


def _check_cli(command: click.Command, words: list[str], line: str) -> None:
    ctx = click.Context(command, info_name=command.name)
    if isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            return
        inner = command.get_command(ctx, words[0])
        assert inner is not None, f"{words[0]} is no command: {line}"
        _check_cli(inner, words[1:], line)
        return
    given, left, _ = command.make_parser(ctx).parse_args(list(words))
    assert not left, f"{left} is left over: {line}"
    for param in command.params:
        value = given.get(param.name)
        if value is None or not isinstance(param, click.Option) or isinstance(value, bool):
            continue
        for one in value if isinstance(value, list) else [value]:
            if not (isinstance(one, str) and (one.isupper() or "$" in one or "{" in one)):
                _check_value(param, one, ctx)


def _check_value(param: click.Option, value: object, ctx: click.Context) -> None:
    if isinstance(param.type, click.Choice | click.IntRange | click.FloatRange):
        param.type.convert(value, param, ctx)


def _check_job(words: list[str], line: str) -> None:
    """A whole line of a job; a line that is cut short of its inputs is none."""
    job = next((word for word in words if word.startswith("jobs/")), None)
    if job is None:
        assert len(words) == 1 or words[1].startswith("-"), line
        return
    assert job in JOBS, f"{job} is not there: {line}"
    arguments = words[words.index(job) + 1 :]
    if not arguments:
        return
    for place, word in enumerate(arguments[:-1]):
        following = arguments[place + 1]
        if word == "--mapping" and following.endswith(".toml"):
            arguments[place + 1] = "amazon2023"  # the reader's own
        if word in _DAYS and (following.isupper() or "$" in following or "{" in following):
            arguments[place + 1] = "2024-05-31"
    JOBS[job](arguments)


def pages() -> list[Path]:
    """All pages of the repository."""
    docs = sorted((REPOSITORY / "docs").rglob("*.md"))
    return [REPOSITORY / "README.md", REPOSITORY / "AGENTS.md", *docs]
