"""Scoring and publishing on S3: real pyarrow S3 calls against moto's server on loopback."""

import time
from collections.abc import Iterator

import pytest

from r2ec import schemas
from r2ec.errors import NotReadyError, R2ecError
from r2ec.infer.publish import publish
from r2ec.infer.staged import remove_abandoned, staged_runs
from r2ec.storage import Warehouse
from tests.factories.object_store import BUCKET, object_store
from tests.factories.scored import DATE, plan_of, score_run, score_shard, write_histories


@pytest.fixture
def warehouse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Warehouse]:
    with object_store() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield Warehouse(f"s3://{BUCKET}/publishing")


def test_a_date_is_scored_published_and_replaced_on_s3(warehouse: Warehouse) -> None:
    users = write_histories(warehouse, 8)
    plan = plan_of(warehouse)
    score_shard(warehouse, plan, 0, users)
    with pytest.raises(NotReadyError, match="shard 1 of 2"):
        publish(warehouse, DATE)
    score_shard(warehouse, plan, 1, users)
    assert score_shard(warehouse, plan, 1, users) == []
    staged = warehouse.list_files(*plan.staging, "reasoning")
    intact = warehouse.read_file(staged[0])
    warehouse.replace_file(intact[:-1], staged[0])
    with pytest.raises(R2ecError, match="SHA-256"):
        publish(warehouse, DATE)
    warehouse.replace_file(intact, staged[0])
    # A publishing that was cut off after the first of the two moves.
    target = ("recommendations", f"date={DATE}", f"run_id={plan.run_id}")
    warehouse.move_dir((*plan.staging, "recommendations"), target)
    for run_id, was_already in ((None, False), (None, True), (plan.run_id, True)):
        assert publish(warehouse, DATE, run_id).was_already == was_already
    second = score_run(warehouse, users, model="b" * 12)
    assert not publish(warehouse, DATE).was_already
    for table, num_rows in ((schemas.RECOMMENDATIONS, 24), (schemas.REASONING, 8)):
        assert warehouse.partitions(table.name, "run_id", date=DATE) == [second.run_id]
        rows = warehouse.read_table(table, date=DATE, run_id=second.run_id)
        assert rows.num_rows == num_rows
    assert warehouse.read_table(schemas.RUNS, date=DATE)["run_id"].to_pylist() == [second.run_id]
    assert warehouse.list_files("_staging", suffix="") == []


def test_a_run_given_up_before_its_first_part_goes_away_a_day_later_on_s3(
    warehouse: Warehouse,
) -> None:
    write_histories(warehouse, 8)
    plan = plan_of(warehouse)
    warehouse.replace_file(plan.to_json(), *plan.staging, "plan.json")
    written = warehouse.modified_at(*plan.staging, "plan.json")
    assert written is not None
    assert abs(written - time.time()) < 60
    remove_abandoned(warehouse, now=written + 86_000)
    assert staged_runs(warehouse, DATE) == [plan.run_id]
    remove_abandoned(warehouse, now=written + 87_000)
    assert staged_runs(warehouse, DATE) == []
    assert warehouse.modified_at(*plan.staging, "plan.json") is None
