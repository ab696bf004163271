"""Scoring and publishing on a bad night: a full disk, a clock that jumps, another model."""

import errno
import os
import re
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest

from r2ec import schemas, storage
from r2ec.catalog import Catalog
from r2ec.storage import Warehouse
from tests.factories.commands import cli
from tests.factories.models import save_small_model
from tests.factories.shop import DATE, longer_catalog, write_shop

pytestmark = pytest.mark.e2e

PARTS = ("--users-per-part", 6)


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Path, Catalog]:
    """A warehouse with embeddings, and a model of random weights that knows its catalog."""
    catalog = write_shop(str(tmp_path / "warehouse"))
    save_small_model(tmp_path / "model", catalog)
    assert cli("embed", "--warehouse", tmp_path / "warehouse", "--model", tmp_path / "model") == 0
    return tmp_path, catalog


def score(place: Path, *more: object, warehouse: str = "warehouse") -> int:
    at = ("--warehouse", place / warehouse, "--model", place / "model")
    return cli("score", *at, "--date", DATE, *more)


def publish(place: Path, warehouse: str = "warehouse") -> int:
    return cli("publish", "--warehouse", place / warehouse, "--date", DATE)


def published(place: Path, warehouse: str = "warehouse") -> list[pa.Table]:
    tables = (schemas.RECOMMENDATIONS, schemas.REASONING)
    return [Warehouse(str(place / warehouse)).read_table(table, date=DATE) for table in tables]


def undisturbed(place: Path) -> list[pa.Table]:
    """What the same commands give in a copy of the warehouse where nothing happens."""
    shutil.copytree(place / "warehouse", place / "copy")
    assert score(place, *PARTS, warehouse="copy") == 0
    return published(place, "copy")


def test_a_full_disk_ends_scoring_and_publishing_with_the_path_and_a_second_try_completes(
    shop: tuple[Path, Catalog], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk takes so many files, half of the next one, and nothing more; then there is room."""
    place, _ = shop
    expected = undisturbed(place)
    whole, num_failures = storage._write_synced, 0
    for room in range(200):
        written = 0

        def until_full(path: str, data: bytes, room: int = room) -> None:
            nonlocal written
            if written == room:
                Path(path).write_bytes(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            written += 1
            whole(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "_write_synced", until_full)
            code = score(place, *PARTS)
        told = capsys.readouterr().err
        if code == 0:
            break
        num_failures += 1
        assert code == 1, told
        assert f"error: {place / 'warehouse'}" in told or "cannot write to the warehouse" in told
        assert "the disk is full" in told or "No space left" in told
        assert not list((place / "warehouse").rglob("*.tmp")), "half a file is left"
        assert not (place / "warehouse" / "runs").exists() or published(place) == expected
        if room % 4 == 3:  # with parts of the try before, or from the beginning
            shutil.rmtree(place / "warehouse" / "_staging")
    assert num_failures >= 8
    assert score(place, *PARTS) == 0
    assert published(place) == expected


@pytest.mark.parametrize("hours", [-30.0, 30.0])
def test_a_clock_that_jumps_between_shards_changes_no_row(
    shop: tuple[Path, Catalog], monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    place, _ = shop
    expected = undisturbed(place)
    clock, shards = time.time, ("--num-shards", 2, "--no-publish")
    assert score(place, *PARTS, *shards, "--shard", 0) == 0
    monkeypatch.setattr(time, "time", lambda: clock() + 3600 * hours)
    assert score(place, *PARTS, *shards, "--shard", 1) == 0
    monkeypatch.setattr(time, "time", clock)
    assert publish(place) == 0
    for one, other in zip(published(place), expected, strict=True):
        by = [(name, "ascending") for name in ("user_id", "rank") if name in one.column_names]
        assert one.sort_by(by).drop("score" if len(by) > 1 else []) == other.sort_by(by).drop(
            "score" if len(by) > 1 else []
        )
    row = Warehouse(str(place / "warehouse")).read_table(schemas.RUNS, date=DATE).to_pylist()[0]
    assert 0 < row["wall_seconds"] <= row["device_seconds"] + 1
    assert row["users_per_second"] > 0


def test_a_lease_that_another_clock_left_in_the_future_holds_nobody_up(
    shop: tuple[Path, Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = shop
    assert score(place, *PARTS, "--no-publish") == 0
    folder = place / "warehouse" / "_staging" / "leases"
    folder.mkdir(exist_ok=True)
    (folder / f"publish-{DATE}.json").write_text(
        f'{{"host": "elsewhere", "pid": 1, "token": "t", "heartbeat": {time.time() + 7200}}}'
    )
    assert publish(place) == 0


def test_a_model_replaced_between_shards_is_refused_until_one_model_made_all(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, catalog = shop
    warehouse, shards = place / "warehouse", ("--num-shards", 2, "--no-publish")
    assert score(place, *shards, "--shard", 0) == 0
    (place / "model").rename(place / "first")
    save_small_model(place / "model", catalog, seed=5)
    assert score(place, *shards, "--shard", 1) == 3
    assert "there are no item embeddings of model" in capsys.readouterr().err
    assert cli("embed", "--warehouse", warehouse, "--model", place / "model") == 0
    assert score(place, *shards, "--shard", 1) == 0
    runs = {path.parent.name.removeprefix("run_id=") for path in warehouse.rglob("plan.json")}
    assert len(runs) == 2
    capsys.readouterr()
    assert publish(place) == 3
    told = capsys.readouterr().err
    assert any(run in told for run in runs), told
    missing = re.search(r"shard ([01]) of 2 not finished", told)
    assert missing is not None
    assert f"r2ec-cli score --date {DATE} --shard {missing[1]} --num-shards 2" in told
    assert not (warehouse / "runs").exists()
    assert score(place, *shards, "--shard", 0) == 0
    assert publish(place) == 0


def test_a_catalog_older_than_the_model_is_refused(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, catalog = shop
    shutil.rmtree(place / "model")
    save_small_model(place / "model", longer_catalog(catalog, 5))
    assert score(place) == 2
    assert "an older catalog cannot be scored" in capsys.readouterr().err
