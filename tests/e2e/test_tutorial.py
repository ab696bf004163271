"""`docs/tutorial.md`: its commands, typed one after another, print what the page shows.

Everything is as on the page but for the number of training steps, which the environment changes.
"""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.factories.commands import REPOSITORY
from tests.factories.console import Command, console_commands, first_not_found, run_in_one_shell

pytestmark = [pytest.mark.e2e, pytest.mark.spark]

PAGE = REPOSITORY / "docs" / "tutorial.md"
SETUP, *COMMANDS = console_commands(PAGE)
FEWER_STEPS = {
    "R2EC_INIT_MODEL_SET": "init.warmup_steps=40",
    "R2EC_TRAIN_SET": " ".join(
        (
            "contrastive.steps=3",
            "contrastive.batch_users=32",
            "recpo.steps=1",
            "recpo.batch_users=4",
            "evaluation.max_valid_users=40",
        )
    ),
    "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands see of a clone."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("jobs", "configs"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


@pytest.fixture(scope="module")
def outputs(folder: Path) -> list[str]:
    return run_in_one_shell(COMMANDS, folder, FEWER_STEPS)


def test_the_page_begins_with_the_setup_of_the_readme() -> None:
    assert SETUP.text == "make setup && source .venv/bin/activate"
    assert f"$ {SETUP.text}\n" in (REPOSITORY / "README.md").read_text("utf-8")


def test_every_command_prints_what_the_page_shows(outputs: list[str]) -> None:
    for command, output in zip(COMMANDS, outputs, strict=True):
        missing = first_not_found(command.shown, output)
        assert missing is None, f"$ {command.text}\nprints no {missing!r}, but:\n{output[-3000:]}"


def test_what_the_model_writes_stands_where_the_page_has_it(outputs: list[str]) -> None:
    (block,) = re.findall(r"^```text\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    (output,) = [
        o for c, o in zip(COMMANDS, outputs, strict=True) if c.text.startswith("r2ec-cli show")
    ]
    lines = [line for line in block.splitlines() if line.strip()]
    fixed = [lines[0], lines[3], lines[4]]
    assert fixed[1] == "Recommended, best first"
    assert first_not_found(fixed, output) is None, output


def test_the_rows_taken_elsewhere_are_all_there(folder: Path, outputs: list[str]) -> None:
    rows = pq.read_table(folder / "lists.parquet")
    assert rows.num_rows == 7230
    assert rows["title"].null_count == 0


def test_a_line_that_is_not_printed_is_noticed() -> None:
    shown = ["read 12 rows of …", "N@10 0.25"]
    assert first_not_found(shown, "read 12 rows of log.csv\nN@10  0.5\n") is None
    assert first_not_found(shown, "read 13 rows of log.csv\nN@10  0.5\n") == shown[0]
    assert first_not_found(shown[::-1], "read 12 rows of log.csv\nN@10  0.5\n") == shown[0]
    assert first_not_found(["model 0123456789ab"], "model ffffffffffff") is None
    assert console_commands(PAGE)[0] == Command(SETUP.text)
