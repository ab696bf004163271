"""Invariant 10, and the main job: logs in, a published and audited date out, and it learnt.

The shop, the seed and the steps are fixed; the figures are compared with those of the same weights
before training.
"""

import json
from pathlib import Path

import pytest

from r2ec import schemas
from r2ec.storage import Warehouse
from tests.factories.commands import REPOSITORY, cli, metric_lines

pytestmark = [pytest.mark.e2e, pytest.mark.spark]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo of 4,000 events and fewer steps, run as people run it."""
    folder = tmp_path_factory.mktemp("demo")
    text = (REPOSITORY / "configs" / "demo.toml").read_text("utf-8")
    for before, after in (
        ("vocab_size = 3000", "vocab_size = 1500"),
        ("hidden_size = 128", "hidden_size = 64"),
        ("intermediate_size = 256", "intermediate_size = 128"),
        ("warmup_steps = 120", "warmup_steps = 100"),
        ("steps = 135", "steps = 110"),
        ("batch_users = 128", "batch_users = 64"),
        ("eval_every = 45", "eval_every = 55"),
        ("steps = 24", "steps = 4"),
        ("eval_every = 12", "eval_every = 2"),
        ("max_valid_users = 500", "max_valid_users = 300"),
    ):
        assert before in text, f"configs/demo.toml has no {before!r}"
        text = text.replace(before, after, 1)
    (folder / "small.toml").write_text(text)
    arguments = ("--events", 4000, "--seed", 1, "--config", folder / "small.toml")
    assert cli("demo", "--demo-dir", folder, *arguments) == 0
    return folder


def test_training_raises_valid_ndcg_over_the_untrained_model(demo: Path) -> None:
    lines = [line for line in metric_lines(demo / "model.run") if "valid_ndcg@10" in line]
    first = lines[0]
    assert (first["stage"], first["step"]) == ("contrastive", 0)
    assert max(line["valid_ndcg@10"] for line in lines) > 2 * first["valid_ndcg@10"]


def test_the_test_split_agrees(demo: Path) -> None:
    summary = json.loads((demo / "summary.json").read_text())
    rows = {row["run_id"]: row for row in summary["metrics"] if row["metric"] == "ndcg@10"}
    assert rows.keys() == {"popularity", "untrained", "contrastive", "recpo"}
    assert rows["recpo"]["value"] > 1.5 * rows["untrained"]["value"]


def test_the_summary_tells_stages_rows_and_reasons(demo: Path) -> None:
    summary = json.loads((demo / "summary.json").read_text())
    assert len(summary["stage_seconds"]) == 12
    assert "Reward, RecPO" in (demo / "report.html").read_text("utf-8")
    assert all(count > 0 for count in summary["rows"].values())
    reasons = summary["finish_reasons"]
    assert reasons.get("length", 0) < 0.5 * sum(reasons.values())


def test_the_reasonings_are_words_of_the_shop(demo: Path) -> None:
    warehouse = Warehouse(str(demo / "warehouse"))
    version = warehouse.partitions("catalog", "version")[-1]
    items = warehouse.read_table(schemas.CATALOG, version=version)
    words = {
        word.strip(",.;").lower()
        for name in ("title", "store", "category")
        for text in items[name].to_pylist()
        for word in (text or "").split()
    }
    words |= {"bought", "likes", "looks", "at", "earlier"}
    date = warehouse.partitions("runs", "date")[0]
    rows = warehouse.read_table(schemas.REASONING, date=date).to_pylist()
    spoken = [word.strip(",.;").lower() for row in rows for word in row["reasoning"].split()]
    assert len(spoken) > 3 * len(rows)
    assert sum(word in words for word in spoken) > 0.6 * len(spoken)


def test_a_demo_of_an_unknown_layout_names_what_it_expects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.txt").write_text("nothing")
    assert cli("demo", "--demo-dir", tmp_path / "out", "--data", tmp_path) == 3
    assert "meta_X.jsonl" in capsys.readouterr().err
