"""Invariant 7, publishing: several publishers, and readers beside them."""

import contextlib
import os
import time
from pathlib import Path

import pytest

from r2ec import schemas
from r2ec.errors import NotReadyError
from r2ec.infer.lease import Lease, LeaseHeldError
from r2ec.infer.publish import publish
from r2ec.storage import Warehouse
from tests.factories.kill import start
from tests.factories.readers import visible_rows
from tests.factories.scored import (
    DATE,
    score_run,
    users_of,
    write_histories,
)

NUM_USERS = 14
WHOLE = (3 * NUM_USERS, 3 * NUM_USERS, NUM_USERS)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(str(tmp_path / "warehouse"))


def publish_when_told(root: str, run_id: str, go: str) -> None:
    while not os.path.exists(go):
        time.sleep(0.001)
    with contextlib.suppress(LeaseHeldError):
        publish(Warehouse(root), DATE, run_id)


def publish_without_lease(root: str, run_id: str, go: str) -> None:
    Lease.__enter__ = lambda self: self  # type: ignore[method-assign]
    Lease.__exit__ = lambda *_: None  # type: ignore[method-assign,assignment]
    publish_when_told(root, run_id, go)


def republish(root: str, times: int) -> None:
    warehouse = Warehouse(root)
    for number in range(times):
        score_run(warehouse, users_of(NUM_USERS), model=f"{number:012d}")
        publish(warehouse, DATE)


@pytest.mark.parametrize("is_same_run", [True, False])
def test_two_publishers_at_once_leave_one_whole_run(
    warehouse: Warehouse, tmp_path: Path, is_same_run: bool
) -> None:
    users = write_histories(warehouse, NUM_USERS)
    for attempt in range(6):
        runs = [score_run(warehouse, users, model=f"{attempt}{letter}" * 6) for letter in "ab"]
        if is_same_run:
            warehouse.remove_dir(*runs.pop().staging)
        names = [run.run_id for run in runs]
        go = tmp_path / f"go-{attempt}"
        both = [
            start(publish_when_told, warehouse.root, name, str(go))
            for name in (names[0], names[-1])
        ]
        time.sleep(0.05)
        go.touch()
        for process in both:
            process.join()
        assert [process.exitcode for process in both] == [0, 0]
        rows = visible_rows(warehouse)
        assert list(rows.values()) == [WHOLE]
        assert set(rows) <= set(names)


def test_publishers_without_a_lease_leave_one_whole_run_too(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is a courtesy: two that both got past it must not remove what is visible."""
    users = write_histories(warehouse, NUM_USERS)
    for attempt in range(10):
        runs = [score_run(warehouse, users, model=f"{attempt}{letter}" * 6) for letter in "ab"]
        go = tmp_path / f"go-{attempt}"
        both = [start(publish_without_lease, warehouse.root, run.run_id, str(go)) for run in runs]
        time.sleep(0.05)
        go.touch()
        for process in both:
            process.join()
        assert [process.exitcode for process in both] == [0, 0]
        assert list(visible_rows(warehouse).values()) == [WHOLE]


def test_a_reader_beside_many_publishings_never_sees_a_partial_or_doubled_date(
    warehouse: Warehouse,
) -> None:
    score_run(warehouse, write_histories(warehouse, NUM_USERS))
    publish(warehouse, DATE)
    writer = start(republish, warehouse.root, 25)
    looks, runs_seen = 0, set()
    while writer.is_alive():
        run = str(warehouse.read_table(schemas.RUNS, date=DATE)["run_id"][0])
        try:
            tables = [
                warehouse.read_table(table, date=DATE, run_id=run)
                for table in (schemas.RECOMMENDATIONS, schemas.REASONING)
            ]
        except (FileNotFoundError, NotReadyError):  # replaced in the meantime: look again
            assert str(warehouse.read_table(schemas.RUNS, date=DATE)["run_id"][0]) != run
            continue
        if str(warehouse.read_table(schemas.RUNS, date=DATE)["run_id"][0]) == run:
            assert [table.num_rows for table in tables] == [3 * NUM_USERS, NUM_USERS]
            looks += 1
            runs_seen.add(run)
    assert writer.exitcode == 0
    assert looks > 20
    assert len(runs_seen) > 5
