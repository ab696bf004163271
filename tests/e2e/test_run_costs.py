"""What `runs` says that a run took, against a count by hand."""

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest

from r2ec import schemas
from r2ec.infer.manifest import PartRecord, part_from_json
from r2ec.infer.plan import end_of_day
from r2ec.infer.publish import covered_seconds
from r2ec.model.checkpoint import load_model
from r2ec.storage import Warehouse
from r2ec.tables import iter_histories
from tests.factories.commands import cli
from tests.factories.models import save_small_model
from tests.factories.shop import DATE, write_shop

pytestmark = pytest.mark.e2e


def test_tokens_seconds_and_money_are_those_of_a_count_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    catalog = write_shop(warehouse.root, num_users=10)
    save_small_model(tmp_path / "model", catalog)
    at = ("--warehouse", warehouse.root, "--model", tmp_path / "model")
    assert cli("embed", *at) == 0
    began = time.monotonic()
    for shard in (0, 1):
        more = ("--num-shards", 2, "--shard", shard, "--users-per-part", 3)
        assert cli("score", *at, "--date", DATE, *more) == 0
    ended = time.monotonic()
    staged = warehouse.list_files("_staging", "score", suffix=".json")
    parts = [json.loads(warehouse.read_file(path)) for path in staged if "/parts/" in path]
    assert len(parts) >= 4
    monkeypatch.setenv("R2EC_PRICE_PER_HOUR", "2.5")
    assert cli("publish", "--warehouse", warehouse.root, "--date", DATE) == 0

    run = warehouse.read_table(schemas.RUNS, date=DATE).to_pylist()[0]
    encoder = load_model(str(tmp_path / "model")).encoder
    users = list(iter_histories(warehouse, DATE, end_of_day(DATE)))
    assert run["prompt_tokens"] == sum(len(encoder.user_ids(user, catalog)) for user in users)
    reasons = warehouse.read_table(schemas.REASONING, date=DATE).to_pylist()
    assert run["reasoning_tokens"] == sum(row["reasoning_tokens"] for row in reasons)
    assert all(1 <= row["reasoning_tokens"] <= 8 for row in reasons)
    assert run["device_seconds"] == pytest.approx(sum(part["device_seconds"] for part in parts))
    # The parts of a shard overlap, and a moment counts once.
    spans = [(part["finished_at"] - part["wall_seconds"], part["finished_at"]) for part in parts]
    assert run["wall_seconds"] == pytest.approx(_moments(spans), abs=1e-3)
    assert run["wall_seconds"] < sum(part["wall_seconds"] for part in parts)
    assert 0 < run["device_seconds"] <= run["wall_seconds"] < ended - began
    assert run["users_per_second"] == pytest.approx(10 / run["wall_seconds"])
    assert run["price_per_hour"] == 2.5
    assert run["cost_per_1000_users"] == pytest.approx(
        run["device_seconds"] * (2.5 / 3600) / (10 / 1000)
    )


def _moments(spans: list[tuple[float, float]]) -> float:
    """How long at least one of the spans lasts, from edge to edge."""
    edges = sorted({edge for span in spans for edge in span})
    return sum(
        after - before
        for before, after in pairwise(edges)
        if any(begin <= before and after <= end for begin, end in spans)
    )


def record(*, begin: float, end: float) -> PartRecord:
    file = {"path": "x", "num_rows": 0, "num_bytes": 0, "sha256": ""}
    counts = dict.fromkeys(("num_users", "num_errors", "num_carried"), 0)
    fields = {
        "part": 0,
        **counts,
        "prompt_tokens": 0,
        "reasoning_tokens": 0,
        "device_seconds": 0.0,
        "wall_seconds": end - begin,
        "finished_at": end,
        "recommendations": file,
        "reasoning": file,
    }
    return part_from_json(json.dumps(fields).encode())


def test_a_price_is_refused_where_it_has_no_effect_but_not_one_of_the_whole_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "warehouse"
    save_small_model(tmp_path / "model", write_shop(str(root), num_users=4))
    at = ("--warehouse", root, "--model", tmp_path / "model")
    assert cli("embed", *at) == 0
    for more in (("--num-shards", 2, "--shard", 0), ("--no-publish",)):
        assert cli("score", *at, "--date", DATE, *more, "--price-per-hour", 2.5) == 2
        assert "--price-per-hour has no effect where nothing is pub" in capsys.readouterr().err
    assert not (root / "_staging" / "score").exists()
    monkeypatch.setenv("R2EC_PRICE_PER_HOUR", "2.5")
    for shard in (0, 1):
        assert cli("score", *at, "--date", DATE, "--num-shards", 2, "--shard", shard) == 0


def test_shards_at_work_at_once_count_once_and_pauses_not_at_all() -> None:
    spans = ((0, 10), (5, 12), (6, 7), (20, 25), (25, 26))
    parts = [record(begin=begin, end=end) for begin, end in reversed(spans)]
    assert covered_seconds(parts) == 12 + 6
    assert covered_seconds([]) == 0
