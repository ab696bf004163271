"""Scoring: shards, batches, restarts and bad input."""

import shutil
import signal
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from r2ec import schemas
from r2ec.catalog import Catalog
from r2ec.infer.lease import Lease
from r2ec.model.slots import SlotCache
from r2ec.storage import Warehouse
from r2ec.tables import History
from tests.factories.commands import cli, start
from tests.factories.models import examples_of, save_small_model
from tests.factories.shop import (
    DATE,
    longer_catalog,
    other_catalog,
    write_catalog,
    write_histories,
    write_shop,
)

pytestmark = pytest.mark.e2e

TABLES = (schemas.RECOMMENDATIONS, schemas.REASONING)


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Path, Catalog]:
    """A warehouse with embeddings, and a model of random weights that knows its catalog."""
    catalog = write_shop(str(tmp_path / "warehouse"))
    save_small_model(tmp_path / "model", catalog)
    assert cli("embed", "--warehouse", tmp_path / "warehouse", "--model", tmp_path / "model") == 0
    return tmp_path, catalog


def score(place: Path, *more: object) -> int:
    at = ("--warehouse", place / "warehouse", "--model", place / "model")
    return cli("score", *at, "--date", DATE, *more)


def publish(place: Path) -> int:
    return cli("publish", "--warehouse", place / "warehouse", "--date", DATE)


def published(place: Path) -> list[pa.Table]:
    """The rows people see, without the order of files."""
    warehouse = Warehouse(str(place / "warehouse"))
    return [
        warehouse.read_table(table, date=DATE).sort_by(
            [(name, "ascending") for name in ("user_id", "rank") if name in table.schema.names]
        )
        for table in TABLES
    ]


def same_content(one: list[pa.Table], other: list[pa.Table]) -> None:
    """Equal rows; scores to 1e-5, since other batch shapes round otherwise."""
    for a, b in zip(one, other, strict=True):
        names = [name for name in a.column_names if name != "score"]
        assert a.select(names).equals(b.select(names))
    scores = [table["score"].to_numpy() for table in (one[0], other[0])]
    assert abs(scores[0] - scores[1]).max() < 1e-4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_results_do_not_depend_on_shards_parts_or_batches(
    shop: tuple[Path, Catalog], temperature: float
) -> None:
    place, _ = shop
    assert score(place, "--temperature", temperature) == 0
    whole = published(place)
    assert whole[1].num_rows == 24
    assert set(whole[1]["status"].to_pylist()) == {"ok"}
    for shard in range(3):
        more = ("--shard", shard, "--num-shards", 3, "--batch-rows", 2, "--users-per-part", 5)
        assert score(place, "--temperature", temperature, *more) == 0
    assert publish(place) == 0
    same_content(published(place), whole)


def test_a_run_is_named_by_the_batches_too(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = shop
    for rows in (256, 64, 256):
        assert score(place, "--batch-rows", rows, "--dry-run") == 0
    first, other, again = capsys.readouterr().out.splitlines()[-3:]
    assert first == again
    assert first.split(",")[0] != other.split(",")[0]
    assert score(place, "--cache-gib", 4, "--dry-run") == 0
    assert capsys.readouterr().out.split(",")[0] not in (first.split(",")[0], other.split(",")[0])
    assert score(place, "--batch-rows", 0) == 2
    assert score(place, "--cache-gib", 0) == 2


def test_the_room_for_the_cache_bounds_the_rows_that_run_at_once(
    shop: tuple[Path, Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = shop
    assert score(place) == 0
    whole = published(place)
    sizes: list[int] = []
    make = SlotCache.__init__

    def counted(self: SlotCache, config: Any, num_slots: int, num_places: int) -> None:
        sizes.append(num_slots)
        make(self, config, num_slots, num_places)

    monkeypatch.setattr(SlotCache, "__init__", counted)
    assert score(place, "--cache-gib", 0.0002) == 0
    few = sizes.pop()
    assert score(place, "--cache-gib", 0.0004) == 0
    assert 1 < few < 24
    assert abs(sizes.pop() - 2 * few) <= 1
    same_content(published(place), whole)


def test_scoring_that_could_not_begin_leaves_nothing_staged(shop: tuple[Path, Catalog]) -> None:
    place, _ = shop
    assert score(place) == 0
    (place / "warehouse" / "item_embeddings").rename(place / "aside")
    assert score(place, "--top-k", 3) == 3
    (place / "aside").rename(place / "warehouse" / "item_embeddings")
    assert score(place, "--top-k", 3, "--category", "Boats") == 2
    assert score(place, "--top-k", 3, "--device", "cuda:77") == 2
    weights = place / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert score(place, "--top-k", 3) == 3
    assert not list((place / "warehouse" / "_staging").rglob("plan.json"))
    assert publish(place) == 0, "the date is published already"


def test_lists_are_ranked_whole_and_without_seen_items(shop: tuple[Path, Catalog]) -> None:
    place, catalog = shop
    assert score(place, "--top-k", 7) == 0
    ranked = published(place)[0].to_pylist()
    seen = {
        row["user_id"]: set(row["history_item_index"])
        for row in Warehouse(str(place / "warehouse"))
        .read_table(schemas.HISTORIES, date=DATE)
        .to_pylist()
    }
    assert len(ranked) == 24 * 7
    for row in ranked:
        assert row["item_index"] not in seen[row["user_id"]]
        assert row["item_id"] == catalog.items[row["item_index"]].item_id
    for before, after in pairwise(ranked):
        if before["user_id"] == after["user_id"]:
            assert after["rank"] == before["rank"] + 1
            assert after["score"] <= before["score"]


def test_scoring_again_changes_nothing_and_other_settings_replace_the_date(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = shop
    assert score(place) == 0
    first = published(place)
    assert score(place) == 0
    assert "nothing to do" in capsys.readouterr().out
    same_content(published(place), first)
    assert score(place, "--top-k", 3) == 0
    assert published(place)[0].num_rows == 24 * 3


def test_a_killed_scorer_leaves_nothing_to_be_seen_and_goes_on(shop: tuple[Path, Catalog]) -> None:
    place, _ = shop
    at = ("--warehouse", place / "warehouse", "--model", place / "model", "--date", DATE)
    more = ("--users-per-part", 2, "--batch-rows", 1)
    process = start("score", *at, *more)
    parts = place / "warehouse" / "_staging" / "score" / f"date={DATE}"
    deadline = time.monotonic() + 400
    while not list(parts.glob("*/parts/*.json")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in parts.glob("*/parts/*.json")}
    assert done, "killed too early"
    assert not (place / "warehouse" / "recommendations").exists()
    assert not (place / "warehouse" / "runs").exists()
    assert score(place, *more, "--no-publish") == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done, "finished parts are kept"
    assert publish(place) == 0
    resumed = published(place)
    shutil.rmtree(place / "warehouse" / "runs")
    shutil.rmtree(place / "warehouse" / "recommendations")
    shutil.rmtree(place / "warehouse" / "reasoning")
    assert score(place, *more) == 0
    for one, other in zip(resumed, published(place), strict=True):
        assert one.equals(other)


def test_told_to_stop_scoring_ends_after_the_part_in_hand_and_goes_on_later(
    shop: tuple[Path, Catalog],
) -> None:
    place, _ = shop
    at = ("--warehouse", place / "warehouse", "--model", place / "model", "--date", DATE)
    more = ("--users-per-part", 2, "--batch-rows", 1)
    process = start("score", *at, *more)
    parts = place / "warehouse" / "_staging" / "score" / f"date={DATE}"
    deadline = time.monotonic() + 400
    while not list(parts.glob("*/parts/*.json")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate()
    assert process.returncode == 75, printed
    assert "run the same command again" in printed
    done = {path: path.stat().st_mtime_ns for path in parts.glob("*/parts/*.json")}
    assert 0 < len(done) < 12
    assert not (place / "warehouse" / "runs").exists()
    assert score(place, *more) == 0
    assert published(place)[1].num_rows == 24


def test_a_user_with_a_broken_history_does_not_end_the_shard(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, catalog = shop
    histories: list[History] = [example.history for example in examples_of(catalog, 24)]
    histories[3] = replace(histories[3], item_index=(10_000,) * len(histories[3].item_index))
    write_histories(Warehouse(str(place / "warehouse")), histories)
    assert score(place) == 4
    assert "--max-error-share" in capsys.readouterr().err
    assert publish(place) == 3, "a shard that failed the gate must not be published"
    assert score(place, "--max-error-share", 0.1) == 0
    rows = {row["user_id"]: row for row in published(place)[1].to_pylist()}
    assert rows["u003"]["status"] == "error"
    assert "item_index 10000" in rows["u003"]["error"]
    assert sum(row["status"] == "ok" for row in rows.values()) == 23


def test_a_second_scorer_on_the_same_shard_is_told_so(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = shop
    assert score(place, "--dry-run") == 0
    run = capsys.readouterr().out.split()[1].rstrip(",")
    warehouse = Warehouse(str(place / "warehouse"))
    sleeper = start("sql", "--help")  # another live process on this host holds the lease
    lease = Lease(warehouse, f"score-{run}-shard-00000", what="shard 0 is being scored")
    with lease:
        file = next((place / "warehouse" / "_staging" / "leases").glob("*.json"))
        text = file.read_text()
        import os

        file.write_text(text.replace(f'"pid": {os.getpid()}', f'"pid": {os.getppid()}'))
        assert score(place) == 1
        message = capsys.readouterr().err
        assert "shard 0" in message
        assert str(os.getppid()) in message
    sleeper.communicate()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--date", "2031-01-01"), 3, "histories/date=2031-01-01"),
        (("--date", "tomorrow"), 2, "2024-05-31"),
        (("--model", "nowhere"), 3, "nowhere does not exist"),
        (("--top-k", 0), 2, "1 to 1000"),
        (("--shard", 4, "--num-shards", 2), 2, "--shard 4"),
        (("--category", "Boats"), 2, "Boats"),
        (("--bogus",), 2, "bogus"),
        (("--temperature", "nan"), 2, "'nan' is not a finite number"),
        (("--temperature", "inf"), 2, "'inf' is not a finite number"),
        (("--temperature", "1e-40"), 2, "temperature 1e-40: give a number from 1e-06, or 0"),
        (("--temperature", 1, "--sampling-top-p", "nan"), 2, "'nan' is not a finite number"),
        (("--max-error-share", "nan"), 2, "'nan' is not a finite number"),
        (("--max-error-share", 5), 2, "5.0 is not in the range"),
        (("--max-error-share", -1), 2, "-1.0 is not in the range"),
        (("--price-per-hour", "nan"), 2, "'nan' is not a finite number"),
    ],
)
def test_wrong_use_of_score_is_named(
    shop: tuple[Path, Catalog],
    arguments: tuple[object, ...],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, _ = shop
    assert score(place, *arguments) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("table", ["histories", "catalog", "item_embeddings"])
def test_a_damaged_table_is_named_by_its_file(
    shop: tuple[Path, Catalog], table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = shop
    file = next((place / "warehouse" / table).rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-20])
    capsys.readouterr()
    assert score(place) == 3
    assert capsys.readouterr().err.startswith(f"error: {file} cannot be read as Parquet")
    if table == "item_embeddings":
        file.unlink()
        assert cli("embed", "--warehouse", place / "warehouse", "--model", place / "model") == 0
        assert score(place) == 0


def test_the_shard_of_an_indexed_job_is_its_completion_index(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = shop
    for index in (1, 0):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        assert score(place, "--num-shards", 2) == 0
        assert f"shard {index} of 2" in capsys.readouterr().out
    assert publish(place) == 0
    assert published(place)[1].num_rows == 24
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "²")
    assert score(place, "--num-shards", 2) == 2
    assert "JOB_COMPLETION_INDEX is '²'" in capsys.readouterr().err


def test_a_catalog_of_three_items_gives_what_is_left_of_it(tmp_path: Path) -> None:
    catalog = write_shop(str(tmp_path / "warehouse"), num_items=3)
    save_small_model(tmp_path / "model", catalog)
    at = ("--warehouse", tmp_path / "warehouse", "--model", tmp_path / "model")
    assert cli("embed", *at) == 0
    assert score(tmp_path, "--top-k", 1000) == 0
    lists, reasons = published(tmp_path)
    histories = Warehouse(str(tmp_path / "warehouse")).read_table(schemas.HISTORIES, date=DATE)
    left = {
        row["user_id"]: {0, 1, 2} - set(row["history_item_index"]) for row in histories.to_pylist()
    }
    assert reasons["user_id"].to_pylist() == sorted(left)
    assert set(map(len, left.values())) == {0, 1, 2}
    found: dict[str, set[int]] = {user: set() for user in left}
    for row in lists.to_pylist():
        found[row["user_id"]].add(row["item_index"])
    assert found == left
    assert score(tmp_path, "--top-k", 1000, "--allow-repeat") == 0
    assert published(tmp_path)[0].num_rows == 24 * 3


def test_a_list_of_items_is_read_as_editors_save_it(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, catalog = shop
    banned = place / "banned.txt"
    banned.write_bytes(f"\ufeff{catalog.items[1].item_id}\r\n\r\n".encode())
    assert score(place, "--exclude-items", banned, "--top-k", 1000) == 0
    assert catalog.items[1].item_id not in published(place)[0]["item_id"].to_pylist()
    banned.write_bytes("Bücher".encode("latin-1"))
    assert score(place, "--exclude-items", banned) == 2
    assert f"--exclude-items {banned} is not in UTF-8" in capsys.readouterr().err


def test_catalogs_that_a_model_does_not_know_are_refused_and_longer_ones_embedded(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, catalog = shop
    warehouse = Warehouse(str(place / "warehouse"))
    write_catalog(warehouse, longer_catalog(catalog, 5))
    assert score(place) == 3
    assert "run r2ec-cli embed" in capsys.readouterr().err
    assert cli("embed", "--warehouse", place / "warehouse", "--model", place / "model") == 0
    assert "5 encoded, 30 kept" in capsys.readouterr().out
    assert score(place) == 0
    write_catalog(warehouse, other_catalog(catalog))
    assert score(place) == 2
    assert "does not know catalog version 2024-07-31" in capsys.readouterr().err


def test_a_plain_language_model_is_refused_with_the_remedy(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = shop
    (place / "model" / "r2ec.json").unlink()
    assert score(place) == 2
    assert "has no r2ec.json" in capsys.readouterr().err


def test_a_warehouse_that_cannot_be_written_to_is_named(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = shop
    shutil.rmtree(place / "warehouse" / "_staging", ignore_errors=True)
    (place / "warehouse" / "_staging").write_text("a file where a folder must be")
    assert score(place) == 1
    assert f"cannot write to the warehouse {place / 'warehouse'}" in capsys.readouterr().err


def test_of_a_list_of_items_some_may_be_unknown_but_not_all(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    """A list of what must not be shown serves every catalog; one in another form serves none."""
    place, catalog = shop
    banned = place / "banned.txt"
    banned.write_text(f"no longer sold\n{catalog.items[1].item_id}\nnever sold\n")
    assert score(place, "--exclude-items", banned, "--top-k", 1000) == 0
    told = capsys.readouterr().err
    assert "2 of 3 items are not in catalog 2024-05-31 (such as 'never sold')" in told
    found = published(place)[0]["item_index"].to_pylist()
    assert sorted(set(found)) == [0, *range(2, catalog.num_items)]
    banned.write_text("no longer sold\nnever sold\n")
    assert score(place, "--exclude-items", banned) == 2
    told = capsys.readouterr().err
    assert "holds none of the 2 items (such as 'never sold'); give the shop's ids" in told


def test_categories_and_excluded_items_bound_the_lists(shop: tuple[Path, Catalog]) -> None:
    place, catalog = shop
    category = catalog.items[1].category
    banned = place / "banned.txt"
    banned.write_text(f"{catalog.items[1].item_id}\n")
    assert score(place, "--category", category, "--exclude-items", banned) == 0
    for row in published(place)[0].to_pylist():
        assert catalog.items[row["item_index"]].category == category
        assert row["item_index"] != 1


def test_items_of_an_excluded_store_are_not_recommended(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, catalog = shop
    store = catalog.items[1].store
    assert store
    assert score(place, "--exclude-stores", store) == 0
    rows = published(place)[0].to_pylist()
    assert len(rows) > 100
    assert not any(catalog.items[row["item_index"]].store == store for row in rows)
    assert score(place, "--exclude-stores", "No Such Store", "--exclude-stores", store) == 2
    told = capsys.readouterr().err
    assert "--exclude-stores: 'No Such Store' is not in catalog 2024-05-31" in told
    for category in ("Goods > r", "oods", "Goods >", "Caf\udce9"):
        assert score(place, "--category", category) == 2
        assert f"--category: {category!r} is not in catalog" in capsys.readouterr().err
    assert score(place, "--exclude-stores", "Caf\udce9") == 2
    assert "is not in catalog" in capsys.readouterr().err
    assert score(place, "--category", "Goods", "--top-k", 1000) == 0
    found = {row["item_index"] for row in published(place)[0].to_pylist()}
    assert found == {item.item_index for item in catalog.items if item.category}
    # Without a store, as the job writes it: null.
    assert score(place, "--exclude-stores", "", "--top-k", 1000) == 0
    found = {row["item_index"] for row in published(place)[0].to_pylist()}
    assert found == {item.item_index for item in catalog.items if item.store}


def test_repeats_come_back_only_where_they_are_allowed(shop: tuple[Path, Catalog]) -> None:
    place, _ = shop
    warehouse = Warehouse(str(place / "warehouse"))
    seen = {
        row["user_id"]: set(row["history_item_index"])
        for row in warehouse.read_table(schemas.HISTORIES, date=DATE).to_pylist()
    }
    for options, expected in (((), False), (("--allow-repeat",), True)):
        assert score(place, "--top-k", 30, *options) == 0
        repeats = [
            r for r in published(place)[0].to_pylist() if r["item_index"] in seen[r["user_id"]]
        ]
        assert bool(repeats) == expected


def test_sampling_settings_change_the_reasonings(shop: tuple[Path, Catalog]) -> None:
    place, _ = shop
    texts = []
    for options in ((), ("--sampling-top-k", 3), ("--sampling-top-p", 0.2)):
        assert score(place, "--temperature", 1.0, *options) == 0
        texts.append(published(place)[1]["reasoning"].to_pylist())
    assert texts[0] != texts[1]
    assert texts[0] != texts[2]
    assert score(place, "--sampling-top-k", 3) == 2, "it has no effect without a temperature"


def test_evaluate_tells_and_keeps_metrics(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = shop
    at = ("--warehouse", place / "warehouse")
    assert cli("evaluate", *at, "--model", place / "model", "--split", "valid") == 0
    assert cli("evaluate", *at, "--baseline", "popularity", "--split", "valid") == 0
    assert "ndcg@10" in capsys.readouterr().out
    rows = Warehouse(str(place / "warehouse")).read_table(schemas.METRICS).to_pylist()
    assert len(rows) == 12
    assert all(row["ci_low"] <= row["value"] <= row["ci_high"] for row in rows)
    assert cli("evaluate", *at) == 2
