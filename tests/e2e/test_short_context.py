"""A model that holds few tokens: prompts give way to the reasoning, as far as they can."""

from pathlib import Path

import pytest

from r2ec import schemas
from r2ec.storage import Warehouse
from tests.factories.commands import cli
from tests.factories.models import save_small_model
from tests.factories.shop import DATE, write_shop

pytestmark = pytest.mark.e2e

POSITIONS = 160


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A shop, and a model whose prompts may be longer than what it holds."""
    catalog = write_shop(str(tmp_path / "warehouse"))
    save_small_model(tmp_path / "model", catalog, max_positions=POSITIONS)
    assert cli("embed", "--warehouse", tmp_path / "warehouse", "--model", tmp_path / "model") == 0
    return tmp_path


def longest(place: Path, budget: int) -> int:
    """Tokens of the longest row without its marker: prompt and reasoning."""
    at = ("--warehouse", place / "warehouse", "--model", place / "model", "--date", DATE)
    assert cli("score", *at, "--reasoning-budget", budget) == 0
    rows = Warehouse(str(place / "warehouse")).read_table(schemas.REASONING, date=DATE).to_pylist()
    return max(row["prompt_tokens"] + row["reasoning_tokens"] for row in rows)


def test_the_oldest_items_make_room_for_the_reasoning(place: Path) -> None:
    marker = 3
    assert longest(place, 0) > POSITIONS - 60, "no prompt is long enough to see it"
    for budget in (40, 60):
        assert longest(place, budget) <= POSITIONS - marker


def test_a_budget_that_leaves_no_room_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--warehouse", place / "warehouse", "--model", place / "model", "--date", DATE)
    assert cli("score", *at, "--reasoning-budget", POSITIONS) == 2
    message = capsys.readouterr().err
    assert f"the model has {POSITIONS} positions" in message
    assert "lower --reasoning-budget" in message
