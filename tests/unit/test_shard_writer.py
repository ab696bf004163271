"""The parts of a shard, and the lease on it."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from r2ec.errors import NotReadyError, UsageError
from r2ec.infer import lease
from r2ec.infer.lease import Lease, LeaseHeldError
from r2ec.infer.plan import expected_users, shard_of
from r2ec.infer.publish import publish
from r2ec.infer.writer import ShardWriter
from r2ec.storage import Warehouse
from tests.factories.scored import (
    DATE,
    part_tables,
    plan_of,
    score_shard,
    write_histories,
)
from tests.factories.warehouse import HISTORIES, make_warehouse

NUM_USERS = 14


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(str(tmp_path / "warehouse"))


def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_live_second_scorer_is_refused_and_a_dead_one_taken_over(warehouse: Warehouse) -> None:
    what = "shard 0 of run R is being scored"
    path = ("_staging", "leases", "score-R-0.json")
    holder = {"host": "elsewhere", "pid": 7, "token": "t", "heartbeat": time.time()}
    warehouse.replace_file(json.dumps(holder).encode(), *path)
    with pytest.raises(
        LeaseHeldError, match=r"shard 0 of run R.*host elsewhere, process 7"
    ) as held:
        Lease(warehouse, "score-R-0", what=what).__enter__()
    assert held.value.exit_code == 1
    own = {**holder, "host": socket.gethostname()}
    for stale in (
        {**holder, "heartbeat": time.time() - 61},  # silent
        {**holder, "heartbeat": time.time() + 3600},  # the clock was set back
        {**own, "pid": os.getpid()},  # the same pod before its restart
        {**own, "pid": ended_process()},
        {"unreadable": 1},
    ):
        warehouse.replace_file(json.dumps(stale).encode(), *path)
        with Lease(warehouse, "score-R-0", what=what):
            assert json.loads(warehouse.read_file(*path))["pid"] == os.getpid()
        assert not warehouse.exists(*path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        warehouse.replace_file(json.dumps({**own, "pid": alive.pid}).encode(), *path)
        with pytest.raises(LeaseHeldError):
            Lease(warehouse, "score-R-0", what=what).__enter__()
        alive.communicate(b"\n")


def test_a_heartbeat_that_cannot_be_written_is_tried_again(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.01)
    folder, aside = Path(warehouse.path("_staging", "leases")), tmp_path / "aside"
    file = folder / "score-R-0.json"
    with Lease(warehouse, "score-R-0", what="shard 0"):
        folder.rename(aside)
        folder.write_text("a file where a folder must be")
        time.sleep(0.2)
        folder.unlink()
        aside.rename(folder)
        file.unlink()
        until = time.monotonic() + 120
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.01)
        assert file.exists()
    assert not file.exists()


def test_a_writer_refuses_rows_that_are_no_part_of_its_shard(warehouse: Warehouse) -> None:
    users = write_histories(warehouse, NUM_USERS)
    plan = plan_of(warehouse)
    writer = ShardWriter(warehouse, plan, 0)
    mine = [user for user in users if shard_of(user.user_id, 2) == 0]
    ranked, reasons = part_tables(plan, mine[:2])
    for wrong in (
        part_tables(plan, [user for user in users if user not in mine][:2]),
        (ranked, reasons[:1]),
        (ranked[1:], reasons),
        (ranked, pa.concat_tables([reasons, reasons])),
        (ranked.drop_columns(["score"]), reasons),
    ):
        with pytest.raises(ValueError):
            writer.write_part(0, *wrong, device_seconds=0, wall_seconds=0)
    with pytest.raises(ValueError, match=r"lacks parts \[0\]"):
        writer.finish(1)
    with pytest.raises(UsageError, match="shard 2 of 2"):
        ShardWriter(warehouse, plan, 2)


def test_shards_scored_in_batches_of_another_size_are_of_another_run(
    warehouse: Warehouse,
) -> None:
    users = write_histories(warehouse, NUM_USERS)
    plan, other = plan_of(warehouse), plan_of(warehouse, batch_rows=64)
    assert plan.run_id != other.run_id
    assert plan.run_id == plan_of(warehouse, batch_rows=256).run_id
    score_shard(warehouse, plan, 0, users)
    score_shard(warehouse, other, 1, users)
    with pytest.raises(NotReadyError, match="not finished"):
        publish(warehouse, DATE)
    with pytest.raises(UsageError, match="batch_rows=0: each is at least 1"):
        plan_of(warehouse, batch_rows=0)


def test_the_users_of_a_shard_are_told_by_the_footers(tmp_path: Path) -> None:
    warehouse = make_warehouse(tmp_path)
    for day, users in HISTORIES.items():
        assert expected_users(warehouse, day, 1) == len(users)
        assert abs(expected_users(warehouse, day, 2) - len(users) / 2) <= 0.5


def test_a_user_who_stands_there_twice_is_refused_when_parts_are_cut(warehouse: Warehouse) -> None:
    users = write_histories(warehouse, NUM_USERS)
    with pytest.raises(UsageError, match=r"user 'u0003' stands there more than once; build it"):
        score_shard(warehouse, plan_of(warehouse), 0, [*users[:4], *users[3:]])
    with pytest.raises(ValueError, match="sort them first"):
        score_shard(warehouse, plan_of(warehouse), 0, users[::-1])
