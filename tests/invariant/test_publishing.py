"""Invariant 7, publishing: a date is published whole or not at all, killed anywhere."""

import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest

from r2ec import schemas
from r2ec.errors import NotReadyError, R2ecError, UsageError
from r2ec.infer.publish import is_published, publish
from r2ec.infer.writer import ShardWriter
from r2ec.storage import Warehouse
from tests.factories.kill import run_and_kill
from tests.factories.readers import contents, damage, visible_rows
from tests.factories.scored import (
    DATE,
    User,
    history_hash,
    plan_of,
    score_run,
    score_shard,
    users_of,
    write_histories,
)

NUM_USERS = 14
WHOLE = (3 * NUM_USERS, 3 * NUM_USERS, NUM_USERS)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(str(tmp_path / "warehouse"))


def publish_date(root: str) -> None:
    publish(Warehouse(root), DATE)


def score_one_shard(root: str, shard: int) -> None:
    warehouse = Warehouse(root)
    score_shard(warehouse, plan_of(warehouse), shard, users_of(NUM_USERS))


def test_a_run_is_invisible_until_it_is_published_and_whole_then(warehouse: Warehouse) -> None:
    users = write_histories(warehouse, NUM_USERS)
    plan = score_run(warehouse, users)
    assert visible_rows(warehouse) == {}
    assert warehouse.list_files("recommendations") == []
    done = publish(warehouse, DATE, price_per_hour=3.6)
    assert (done.run_id, done.num_users, done.was_already) == (plan.run_id, NUM_USERS, False)
    assert visible_rows(warehouse) == {plan.run_id: WHOLE}
    assert warehouse.list_files("_staging", suffix="") == []
    row = warehouse.read_table(schemas.RUNS, date=DATE).to_pylist()[0]
    assert (row["prompt_tokens"], row["reasoning_tokens"]) == (100 * NUM_USERS, 7 * NUM_USERS)
    assert row["cost_per_1000_users"] == pytest.approx(
        row["device_seconds"] / 3600 * 3.6 / NUM_USERS * 1000
    )


def test_a_user_whose_id_is_empty_is_published_like_any_other(warehouse: Warehouse) -> None:
    write_histories(warehouse, 2)
    path = warehouse.list_files("histories")[0]
    rows = warehouse.read_table(schemas.HISTORIES, date=DATE).slice(0, 1)
    names = {"user_id": "", "history_hash": history_hash("")}
    for name, value in names.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), pa.array([value]))
    warehouse.remove_dir("histories")
    warehouse.write_parquet(rows, path)
    score_run(warehouse, [User(user_id="")])
    assert publish(warehouse, DATE).num_users == 1


def test_publishing_twice_changes_nothing(warehouse: Warehouse) -> None:
    plan = score_run(warehouse, write_histories(warehouse, NUM_USERS))
    publish(warehouse, DATE)
    pointer, rows = warehouse.read_file("runs", f"date={DATE}", "run.parquet"), contents(warehouse)
    for run_id in (None, plan.run_id):
        assert publish(warehouse, DATE, run_id).was_already
    assert warehouse.read_file("runs", f"date={DATE}", "run.parquet") == pointer
    assert contents(warehouse) == rows


def stage_a_plan_alone(warehouse: Warehouse, *, date: str = DATE, hours: float = 0) -> str:
    """Stage a run that was given up before its first part, `hours` ago; returns its folder."""
    write_histories(warehouse, NUM_USERS, date=date)
    plan = plan_of(warehouse, date=date, model="f" * 12)
    warehouse.replace_file(plan.to_json(), *plan.staging, "plan.json")
    file = Path(warehouse.path(*plan.staging, "plan.json"))
    os.utime(file, (time.time() - 3600 * hours,) * 2)
    return str(file.parent)


def test_a_run_given_up_before_its_first_part_is_no_reason_to_refuse_the_visible_one(
    warehouse: Warehouse,
) -> None:
    stage_a_plan_alone(warehouse)
    with pytest.raises(NotReadyError, match="no shard is finished"):
        publish(warehouse, DATE)
    plan = score_run(warehouse, users_of(NUM_USERS))
    assert not publish(warehouse, DATE).was_already
    assert publish(warehouse, DATE).was_already
    assert visible_rows(warehouse) == {plan.run_id: WHOLE}
    begun = plan_of(warehouse, model="e" * 12)
    score_shard(warehouse, begun, 0, users_of(NUM_USERS))
    with pytest.raises(NotReadyError, match=f"run {begun.run_id} .* shard 1 of 2 not finished"):
        publish(warehouse, DATE)


def test_runs_given_up_before_their_first_part_are_removed_a_day_later(
    warehouse: Warehouse,
) -> None:
    score_run(warehouse, write_histories(warehouse, NUM_USERS))
    fresh = stage_a_plan_alone(warehouse, hours=23)
    old = stage_a_plan_alone(warehouse, date="2024-06-01", hours=25)
    scored = plan_of(warehouse, model="e" * 12)
    score_shard(warehouse, scored, 0, users_of(NUM_USERS))
    for file in warehouse.list_files(*scored.staging, suffix=""):
        os.utime(warehouse.path(file), (0, 0))
    publish(warehouse, DATE)
    assert Path(fresh).exists()
    assert warehouse.exists(*scored.staging), "what was scored is kept"
    assert not Path(old).exists()


def test_nothing_is_staged_before_the_first_part(warehouse: Warehouse) -> None:
    users = write_histories(warehouse, NUM_USERS)
    plan = plan_of(warehouse)
    writer = ShardWriter(warehouse, plan, 0)
    assert writer.finished_parts() == {}
    assert warehouse.list_files("_staging", suffix="") == []
    score_shard(warehouse, plan, 0, users)
    assert warehouse.exists(*plan.staging, "plan.json")


def test_a_second_run_of_a_date_replaces_the_first_and_no_other_date(warehouse: Warehouse) -> None:
    users = write_histories(warehouse, NUM_USERS)
    score_run(warehouse, users)
    publish(warehouse, DATE)
    other_users = write_histories(warehouse, 5, date="2024-06-01")
    other = plan_of(warehouse, date="2024-06-01", num_shards=1)
    score_shard(warehouse, other, 0, other_users)
    publish(warehouse, "2024-06-01")
    second = score_run(warehouse, users, model="b" * 12)
    publish(warehouse, DATE)
    assert visible_rows(warehouse) == {second.run_id: WHOLE, other.run_id: (15, 15, 5)}
    assert warehouse.partitions("recommendations", "run_id", date=DATE) == [second.run_id]


@pytest.mark.parametrize("replaces", [False, True])
def test_killed_at_any_step_of_publishing_readers_see_all_or_nothing_and_a_restart_completes(
    warehouse: Warehouse, tmp_path: Path, replaces: bool
) -> None:
    users = write_histories(warehouse, NUM_USERS)
    allowed: list[dict[str, tuple[int, int, int]]] = [{}]
    if replaces:
        first = score_run(warehouse, users, model="a" * 12, users_per_part=5)
        publish(warehouse, DATE)
        allowed = [{first.run_id: WHOLE}]
    second = score_run(warehouse, users, model="b" * 12, users_per_part=5)
    after = {second.run_id: WHOLE}
    allowed.append(after)
    staged = tmp_path / "staged"
    shutil.copytree(warehouse.root, staged)
    expected, step, seen = None, 0, []
    while True:
        step += 1
        shutil.rmtree(warehouse.root)
        shutil.copytree(staged, warehouse.root)
        was_killed = run_and_kill(publish_date, warehouse.root, step=step, root=warehouse.path())
        rows = visible_rows(warehouse)
        assert rows in allowed, f"killed at step {step}: {rows}"
        seen.append(rows)
        if was_killed:
            publish(warehouse, DATE)
            assert visible_rows(warehouse) == after, f"restarted after step {step}"
        expected = expected or contents(warehouse)
        assert contents(warehouse) == expected
        assert warehouse.list_files("_staging", suffix="") == [], f"restarted after step {step}"
        if not was_killed:
            break
    assert step > 30
    assert allowed[0] in seen
    assert seen == sorted(seen, key=allowed.index), "a published date went away again"


def test_killed_at_any_step_of_scoring_a_restart_gives_the_same_bytes(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    users = write_histories(warehouse, NUM_USERS)
    whole = Warehouse(str(tmp_path / "whole"))
    write_histories(whole, NUM_USERS)
    plan = score_run(whole, users)
    publish(whole, DATE)
    score_shard(warehouse, plan, 1, users)
    kills = 0
    for step in range(1, 200):
        # Killed once more at each restart: the parts finished before must be kept.
        if not run_and_kill(score_one_shard, warehouse.root, 0, step=step, root=warehouse.path()):
            break
        kills += 1
        with pytest.raises(NotReadyError, match="shard 0 of 2"):
            publish(warehouse, DATE)
    assert kills > 8
    assert score_shard(warehouse, plan, 0, users) == []
    publish(warehouse, DATE)
    assert contents(warehouse) == contents(whole)


def test_a_restart_makes_only_what_is_missing_or_damaged(warehouse: Warehouse) -> None:
    users = write_histories(warehouse, NUM_USERS)
    plan = plan_of(warehouse)
    made = score_shard(warehouse, plan, 0, users)
    assert made == list(range(len(made)))
    assert score_shard(warehouse, plan, 0, users) == []
    damage(
        warehouse,
        "/".join([*plan.staging, "reasoning", "shard-00000-part-00001.parquet"]),
        lambda data: data[:-1] + b"x",
    )
    Path(warehouse.path(*plan.staging, "parts", "shard-00000-part-00000.json")).unlink()
    assert score_shard(warehouse, plan, 0, users) == [0, 1]


def test_a_publishing_cut_off_between_the_moves_is_no_reason_to_score_again(
    warehouse: Warehouse,
) -> None:
    users = write_histories(warehouse, NUM_USERS)
    plan = score_run(warehouse, users)
    target = ("recommendations", f"date={DATE}", f"run_id={plan.run_id}")
    warehouse.move_dir((*plan.staging, "recommendations"), target)
    assert score_shard(warehouse, plan, 0, users) == []
    publish(warehouse, DATE)
    assert visible_rows(warehouse) == {plan.run_id: WHOLE}


def test_of_two_complete_runs_the_named_one_is_published(warehouse: Warehouse) -> None:
    users = write_histories(warehouse, NUM_USERS)
    runs = [score_run(warehouse, users, model=letter * 12).run_id for letter in "ab"]
    with pytest.raises(UsageError, match=r"2 runs of .* are complete: say which by --run-id"):
        publish(warehouse, DATE)
    with pytest.raises(UsageError, match=r"run 'c' of .* is not staged"):
        publish(warehouse, DATE, "c")
    for run in runs:
        publish(warehouse, DATE, run)
        assert visible_rows(warehouse) == {run: WHOLE}


def test_lost_rows_of_a_published_run_come_back_from_a_new_scoring(warehouse: Warehouse) -> None:
    users = write_histories(warehouse, NUM_USERS)
    plan = score_run(warehouse, users)
    assert not is_published(warehouse, DATE, plan.run_id)
    publish(warehouse, DATE)
    assert is_published(warehouse, DATE, plan.run_id)
    assert not is_published(warehouse, DATE, "another")
    Path(warehouse.path(warehouse.list_files("reasoning")[0])).unlink()
    assert not is_published(warehouse, DATE, plan.run_id)
    with pytest.raises(R2ecError, match="has lost rows"):
        publish(warehouse, DATE)
    score_run(warehouse, users)
    assert not publish(warehouse, DATE).was_already
    assert visible_rows(warehouse) == {plan.run_id: WHOLE}
