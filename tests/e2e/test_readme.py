"""The commands of the README, typed one after another, with a smaller shop and fewer steps."""

from pathlib import Path

import pytest

from tests.e2e.test_tutorial import FEWER_STEPS
from tests.factories.commands import REPOSITORY
from tests.factories.console import Command, console_commands, run_in_one_shell

pytestmark = [pytest.mark.e2e, pytest.mark.spark]

README = REPOSITORY / "README.md"
TRIED_ELSEWHERE = ["make demo", "make test", "make setup"]


def test_every_command_of_the_readme_runs(tmp_path: Path) -> None:
    commands = console_commands(README)
    made = [" ".join(c.text.split()[:2]) for c in commands if c.text.startswith("make")]
    assert made == TRIED_ELSEWHERE
    typed = [Command(c.text) for c in commands if not c.text.startswith("make")]
    assert len(typed) == 2 + 6 + 5
    for command in typed:
        command.text = command.text.replace("--events 20000", "--events 3000")
    for name in ("jobs", "configs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    outputs = run_in_one_shell(typed, tmp_path, FEWER_STEPS)
    by_command = {c.text.split()[1]: output for c, output in zip(typed, outputs, strict=True)}
    assert "published 2023-12-30-" in by_command["score"]
    assert "AED85D1D838DA8F6E0 on 2023-12-30" in by_command["show"]
    assert "ndcg@10" in by_command["evaluate"]
    assert (tmp_path / "report.html").stat().st_size > 50_000
