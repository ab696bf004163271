"""docs/operations.md, "Deleting a user": its commands print what the page shows."""

from pathlib import Path

import pytest

from r2ec.storage import Warehouse
from tests.factories.commands import REPOSITORY
from tests.factories.console import commands_of, first_not_found, run_in_one_shell
from tests.factories.whole_warehouse import mentions, write_everything

pytestmark = pytest.mark.e2e

PAGE = REPOSITORY / "docs" / "operations.md"


def test_every_command_prints_what_the_page_shows(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    write_everything(warehouse)
    section = PAGE.read_text("utf-8").split("\n## Deleting a user\n")[1].split("\n## ")[0]
    commands = commands_of(section)
    assert [command.text.split()[1] for command in commands] == ["forget"] * 3 + ["audit"]
    outputs = run_in_one_shell(commands, tmp_path, {"R2EC_WAREHOUSE": "warehouse"})
    for command, output in zip(commands, outputs, strict=True):
        missing = first_not_found(command.shown, output)
        assert missing is None, f"$ {command.text}\nprints no {missing!r}, but:\n{output}"
    assert mentions(warehouse, "u0003") == []
