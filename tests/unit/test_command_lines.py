"""Every command that a page writes is one that its program would take."""

import click
import pytest

from tests.factories.command_lines import check_command_line, command_lines, pages
from tests.factories.commands import REPOSITORY


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are named from there; many lines leave the warehouse to the environment."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("R2EC_WAREHOUSE", "warehouse")


LINES = [
    pytest.param(line, id=f"{page.name}: {line[:70]}")
    for page in pages()
    for line in dict.fromkeys(command_lines(page.read_text("utf-8")))
]


def test_the_pages_have_commands() -> None:
    assert len(LINES) > 100


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_a_page_is_taken_by_its_program(line: str) -> None:
    check_command_line(line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("r2ec-cli scoer --date D", "scoer is no command"),
        ("r2ec-cli score --dat D", "--dat"),
        ("r2ec-cli score D", "left over"),
        ("r2ec-cli evaluate --split tset", "tset"),
        ("r2ec-cli evaluate --k 0", "x>=1"),
        ("r2ec-cli score --date", "requires an argument"),
        ("spark-submit jobs/build_sequence.py --date D", "is not there"),
        ("python benchmarks/bench_sql.py --row 3", "has no --row"),
        ("torchrun --nproc_per_node=2 -m r2ec trane", "trane is no command"),
    ],
)
def test_a_wrong_command_is_noticed(line: str, words: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)) as error:
        check_command_line(line)
    assert words in getattr(error.value, "message", str(error.value))


def test_a_wrong_option_of_a_job_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check_command_line("spark-submit jobs/build_sequences.py --interactions PATH --dat D")
    assert "--dat" in capsys.readouterr().err


def test_commands_are_found_wherever_a_page_may_have_them() -> None:
    page = """Say `r2ec-cli show` or:

    R2EC_WAREHOUSE=w r2ec-cli audit

```bash
r2ec-cli embed \\
    --model model && r2ec-cli score --date D  # nightly
```
"""
    assert [line.split() for line in command_lines(page)] == [
        ["r2ec-cli", "embed", "--model", "model"],
        ["r2ec-cli", "score", "--date", "D"],
        ["r2ec-cli", "audit"],
        ["r2ec-cli", "show"],
    ]
