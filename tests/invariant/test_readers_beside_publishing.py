"""Invariant 7: who queries the views while a date is replaced sees one whole run, always."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from r2ec.infer.publish import publish
from r2ec.storage import Warehouse
from tests.factories.kill import start
from tests.factories.object_store import BUCKET, object_store
from tests.factories.readers import look_through_views
from tests.factories.scored import DATE, score_run, users_of, write_histories

NUM_USERS = 6
ROWS = 3 * NUM_USERS
WHOLE = (ROWS, ROWS, NUM_USERS, NUM_USERS, ROWS, ROWS)
NOTHING = (0,) * 6


@pytest.fixture
def on_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Warehouse, dict[str, str]]]:
    with object_store() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield Warehouse(f"s3://{BUCKET}/readers"), environment


def republish(root: str, times: int, environment: dict[str, str]) -> None:
    os.environ |= environment
    warehouse = Warehouse(root)
    for number in range(times):
        score_run(warehouse, users_of(NUM_USERS), model=f"{number:012d}", num_shards=1)
        publish(warehouse, DATE)


def publish_date(root: str, environment: dict[str, str]) -> None:
    os.environ |= environment
    publish(Warehouse(root), DATE)


def look_until_it_ends(warehouse: Warehouse, times: int, environment: dict[str, str]) -> set[str]:
    """Look at the date while another process publishes it; the runs that were seen."""
    score_run(warehouse, write_histories(warehouse, NUM_USERS), num_shards=1)
    publish(warehouse, DATE)
    publisher = start(republish, warehouse.root, times, environment)
    seen: set[str] = set()
    while publisher.is_alive():
        counts, run = look_through_views(warehouse, DATE)
        assert counts == WHOLE, f"after {len(seen)} runs"
        seen.add(str(run))
    assert publisher.exitcode == 0
    return seen


def test_a_reader_of_the_views_beside_200_publishings_sees_a_whole_date_each_time(
    tmp_path: Path,
) -> None:
    seen = look_until_it_ends(Warehouse(str(tmp_path / "warehouse")), 200, {})
    assert len(seen) > 10


def test_a_reader_of_the_views_on_s3_sees_a_whole_date_each_time(
    on_s3: tuple[Warehouse, dict[str, str]],
) -> None:
    assert len(look_until_it_ends(on_s3[0], 8, on_s3[1])) > 2


def moved(table: str) -> Callable[[Warehouse, str], bool]:
    return lambda warehouse, run: run in warehouse.partitions(table, "run_id", date=DATE)


def flipped(warehouse: Warehouse, run: str) -> bool:
    return look_through_views(warehouse, DATE)[1] == run


def test_killed_while_publishing_on_s3_readers_see_one_whole_run_and_a_restart_completes(
    on_s3: tuple[Warehouse, dict[str, str]],
) -> None:
    warehouse, environment = on_s3
    users = write_histories(warehouse, NUM_USERS)
    before = score_run(warehouse, users, model="0" * 12, users_per_part=1).run_id
    assert look_through_views(warehouse, DATE) == (NOTHING, None)
    publish(warehouse, DATE)
    for letter, has_come in zip(
        "abc", (moved("recommendations"), moved("reasoning"), flipped), strict=True
    ):
        run = score_run(warehouse, users, model=letter * 12, users_per_part=1).run_id
        publisher = start(publish_date, warehouse.root, environment)
        while publisher.is_alive() and not has_come(warehouse, run):
            time.sleep(0.001)
        publisher.kill()
        publisher.join()
        for _ in range(3):
            counts, seen = look_through_views(warehouse, DATE)
            assert counts == WHOLE
            assert seen in (before, run)
        publish(warehouse, DATE)
        assert look_through_views(warehouse, DATE) == (WHOLE, run)
        assert warehouse.partitions("reasoning", "run_id", date=DATE) == [run]
        assert warehouse.list_files("_staging", "score", suffix="") == []
        before = run
