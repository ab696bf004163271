"""`docs/library.md`: its code runs as it stands, and does what the page says."""

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from r2ec import schemas
from r2ec.storage import Warehouse
from r2ec.tables import History
from r2ec.text.prompts import DAY
from tests.factories.commands import REPOSITORY, cli
from tests.factories.models import examples_of, save_small_model
from tests.factories.shop import DATE, write_examples, write_shop

pytestmark = pytest.mark.e2e

PAGE = REPOSITORY / "docs" / "library.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `warehouse`, `model`, and a published date that purchases followed."""
    folder = tmp_path_factory.mktemp("notebook")
    catalog = write_shop(str(folder / "warehouse"))
    later = [
        replace(example, history=moved(example.history, to=f"2024-06-0{1 + place % 7}"))
        for place, example in enumerate(examples_of(catalog, 24, seed=3))
    ]
    write_examples(Warehouse(str(folder / "warehouse")), "test", later)
    save_small_model(folder / "model", catalog)
    at = ("--warehouse", folder / "warehouse", "--model", folder / "model")
    assert cli("embed", *at) == 0
    assert cli("score", *at, "--date", DATE) == 0
    return folder


def moved(history: History, *, to: str) -> History:
    """The same history, asked for on another day."""
    return replace(history, now=int(np.datetime64(to, "us").astype(np.int64)) + DAY // 2)


@pytest.fixture(scope="module")
def notebook(place: Path) -> dict[str, Any]:
    """The names that the page's blocks leave behind, run in order in that folder."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for number, block in enumerate(BLOCKS, start=1):
            exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    return names


def test_every_block_ran_and_every_import_is_ours(notebook: dict[str, Any]) -> None:
    assert len(BLOCKS) == PAGE.read_text("utf-8").count("```python") == 12
    ours = re.findall(r"^from (\S+) import", "\n".join(BLOCKS), re.M)
    assert set(ours) - {"datetime"} == {name for name in ours if name.startswith("r2ec.")}
    assert notebook["catalog"].items[0].title.split()[0] in notebook["item_prompt"]
    assert "Bought so far" in notebook["user_prompt"]


def test_scored_users_have_the_rows_that_the_command_publishes(
    place: Path, notebook: dict[str, Any]
) -> None:
    users = notebook["some_users"]["user_id"]
    assert len(users) == 10
    for table, found in (
        (schemas.RECOMMENDATIONS, notebook["lists_of_date"]),
        (schemas.REASONING, notebook["reasoning_of_date"]),
    ):
        rows = Warehouse(str(place / "warehouse")).read_table(table, date=DATE)
        rows = rows.filter(pc.is_in(rows["user_id"], users))
        keys = [(name, "ascending") for name in ("user_id", "rank") if name in rows.column_names]
        expected, found = rows.sort_by(keys), found.sort_by(keys)
        exact = [name for name in table.schema.names if name != "score"]
        assert found.num_rows in (10, 100)
        assert found.select(exact).equals(expected.select(exact).cast(found.select(exact).schema))
        if "score" in table.schema.names:
            assert found["score"].to_numpy() == pytest.approx(
                expected["score"].to_numpy(), abs=1e-4
            )


def test_a_visitor_has_a_whole_list_without_what_was_bought(notebook: dict[str, Any]) -> None:
    ranked, bought = notebook["recommendations"], set(notebook["visitors"]["history_item_id"][0])
    assert ranked["rank"].to_pylist() == list(range(1, 11))
    assert not bought & set(ranked["item_id"].to_pylist())
    assert notebook["reasoning"]["status"].to_pylist() == ["ok"]
    assert notebook["sampled_lists"].num_rows == 30
    assert pc.max(notebook["sampled_reasoning"]["reasoning_tokens"]).as_py() <= 16


def test_a_user_with_an_unknown_item_has_the_reason_and_the_others_their_lists(
    notebook: dict[str, Any],
) -> None:
    frame = {
        "user_id": ["a", "b"],
        "history_item_id": [["NEW"], ["B0001"]],
        "history_time": [[datetime(2024, 5, 1)], [datetime(2024, 5, 1)]],
    }
    score_frame, scorer = notebook["score_frame"], notebook["scorer"]
    ranked, reasons = score_frame(scorer, pa.table(frame), date=DATE)
    assert reasons["error"].to_pylist() == ["item 'NEW' is not in the catalog", None]
    assert set(ranked["user_id"].to_pylist()) == {"b"}


def test_rewards_follow_from_the_ranks_and_advantages_sum_to_nothing_in_each_group(
    notebook: dict[str, Any],
) -> None:
    rewards, ranks_N = notebook["rewards"], notebook["ranks_N"]
    discrete_BG = (1.0 / torch.log2(ranks_N + 1.0)).view(8, 4)
    parts_BG = 0.95 * discrete_BG + 0.05 * rewards.continuous_BG
    assert torch.allclose(rewards.discrete_BG, discrete_BG)
    assert torch.allclose(rewards.fused_BG, parts_BG)
    assert (rewards.continuous_BG > 0).all()
    for name in ("advantages_BG", "reciprocal_advantages_BG"):
        assert notebook[name].shape == (8, 4)
        assert notebook[name].abs().max() > 0
        assert notebook[name].sum(dim=1).abs().max() < 1e-5
    assert notebook["num_encoded"] == 0, "the rows are those of r2ec-cli embed"


def test_figures_are_those_of_the_command_and_stand_in_the_table(
    place: Path, notebook: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--warehouse", place / "warehouse", "--model", place / "model", "--name", "command")
    assert cli("evaluate", *at, "--k", 5, "--k", 10) == 0
    rows = Warehouse(str(place / "warehouse")).read_table(schemas.METRICS).to_pylist()
    runs = [
        [
            (row["metric"], row["value"], row["ci_low"], row["users"])
            for row in rows
            if row["run_id"] == run
        ]
        for run in ("command", "notebook")
    ]
    assert runs[0] == runs[1] == [(f.metric, f.value, f.ci_low, 24) for f in notebook["figures"]]
    assert notebook["recorded"] == notebook["figures"]
    assert notebook["low"] <= notebook["difference"] <= notebook["high"]


def test_a_published_date_is_judged_by_what_was_bought_next(notebook: dict[str, Any]) -> None:
    assert len(notebook["later_B"]) == 24
    hits = (notebook["later_B"] <= 10).sum()
    assert 0 < hits < 24
    assert notebook["later_figures"][1].metric == "hit_rate@10"
    assert notebook["later_figures"][1].value == pytest.approx(hits / 24)


def test_the_views_show_the_published_lists(notebook: dict[str, Any]) -> None:
    assert notebook["best"].num_rows == 24
    (coverage,) = notebook["coverage"].to_pylist()
    assert coverage["num_items"] == 30
