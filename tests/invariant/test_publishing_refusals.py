"""Invariant 7, publishing: what is not every user of the date exactly once is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2ec.errors import NotReadyError, R2ecError
from r2ec.infer.plan import shard_of
from r2ec.infer.publish import publish
from r2ec.storage import Warehouse
from tests.factories.readers import damage, visible_rows
from tests.factories.scored import (
    DATE,
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


def test_missing_shards_are_named(warehouse: Warehouse) -> None:
    users = write_histories(warehouse, NUM_USERS)
    with pytest.raises(NotReadyError, match=rf"nothing is scored for {DATE} in .*: r2ec-cli score"):
        publish(warehouse, DATE)
    plan = plan_of(warehouse, num_shards=4)
    for shard in (0, 2):
        score_shard(warehouse, plan, shard, users)
    with pytest.raises(NotReadyError, match=r"shard 1, 3 of 4 not finished.*--shard 1"):
        publish(warehouse, DATE)
    assert visible_rows(warehouse) == {}


Change = Callable[[pa.Table, pa.Table], tuple[pa.Table, pa.Table]]


def rewrite_part(warehouse: Warehouse, change: Change) -> None:
    """Give part 0 of shard 0 other rows, with manifest and checksums that fit them."""
    plan = plan_of(warehouse)
    manifest_path = "/".join([*plan.staging, "shard-00000.json"])
    manifest = json.loads(warehouse.read_file(manifest_path))
    part = manifest["parts"][0]
    tables = [
        pq.read_table(warehouse.path(*plan.staging, part[table]["path"]))
        for table in ("recommendations", "reasoning")
    ]
    changed = change(*tables)
    for table, rows in zip(("recommendations", "reasoning"), changed, strict=True):
        file = warehouse.write_parquet(rows, *plan.staging, part[table]["path"])
        part[table] |= {"num_rows": file.num_rows, "sha256": file.sha256}
    part["num_users"] = changed[1].num_rows
    warehouse.replace_file(json.dumps(manifest).encode(), manifest_path)


def renamed(rows: pa.Table, old: str, new: str) -> pa.Table:
    names = [new if name == old else name for name in rows["user_id"].to_pylist()]
    return rows.set_column(0, rows.schema.field(0), pa.array(names))


def in_shard(shard: int, *, after: str) -> str:
    """A user of this shard that no history has, between `after` and the next user."""
    names = (f"{after}-{number}" for number in range(1000))
    return next(name for name in names if shard_of(name, 2) == shard)


FIRST, SECOND, THIRD = [
    user.user_id for user in users_of(NUM_USERS) if not shard_of(user.user_id, 2)
][:3]
FAULTS: dict[str, tuple[Change, str]] = {
    "a missing user": (lambda recs, why: (recs[3:], why[1:]), f"user '{FIRST}' is missing"),
    "a user twice": (
        lambda recs, why: (recs, pa.concat_tables([why[:1], why])),
        f"user '{FIRST}' stands there twice",
    ),
    "a user of the next part": (
        lambda recs, why: (
            renamed(recs, THIRD, in_shard(0, after="u9999")),
            renamed(why, THIRD, in_shard(0, after="u9999")),
        ),
        f"user '{THIRD}' is missing",
    ),
    "a user without a history": (
        lambda recs, why: (
            renamed(recs, SECOND, in_shard(0, after=FIRST)),
            renamed(why, SECOND, in_shard(0, after=FIRST)),
        ),
        f"user '{FIRST}-.*none of the date's histories",
    ),
    "a user of another shard": (
        lambda recs, why: (
            renamed(recs, SECOND, in_shard(1, after=FIRST)),
            renamed(why, SECOND, in_shard(1, after=FIRST)),
        ),
        "belongs to another shard",
    ),
    "a rank twice": (
        lambda recs, why: (pa.concat_tables([recs[:1], recs]), why),
        f"ranks of user '{FIRST}'",
    ),
    "a rank left out": (
        lambda recs, why: (pa.concat_tables([recs[:1], recs[2:]]), why),
        f"ranks of user '{FIRST}'",
    ),
    "recommendations without reasoning": (
        lambda recs, why: (renamed(recs, SECOND, "nobody"), why),
        "user 'nobody' has recommendations but no reasoning",
    ),
    "other columns": (
        lambda recs, why: (recs.drop_columns(["score"]), why),
        "other columns or rows",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_is_not_every_user_once_is_refused_even_with_fitting_checksums(
    warehouse: Warehouse, fault: str
) -> None:
    change, message = FAULTS[fault]
    score_run(warehouse, write_histories(warehouse, NUM_USERS))
    rewrite_part(warehouse, change)
    with pytest.raises(R2ecError, match=message) as refusal:
        publish(warehouse, DATE)
    assert "nothing was published: r2ec-cli score" in str(refusal.value)
    assert visible_rows(warehouse) == {}


def test_a_run_scored_from_other_histories_is_refused(warehouse: Warehouse) -> None:
    score_run(warehouse, write_histories(warehouse, NUM_USERS))
    write_histories(warehouse, NUM_USERS, salt="one more event")
    with pytest.raises(R2ecError, match="was scored from another history"):
        publish(warehouse, DATE)
    write_histories(warehouse, NUM_USERS + 1)
    with pytest.raises(R2ecError, match=f"user 'u00{NUM_USERS}' is missing"):
        publish(warehouse, DATE)
    write_histories(warehouse, NUM_USERS - 1)
    with pytest.raises(R2ecError, match="none of the date's histories"):
        publish(warehouse, DATE)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_to_a_staged_run_is_refused_and_leaves_the_published_one(
    tmp_path: Path, data: st.DataObject
) -> None:
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    shutil.rmtree(warehouse.root, ignore_errors=True)
    users = write_histories(warehouse, NUM_USERS)
    first = score_run(warehouse, users, model="a" * 12)
    publish(warehouse, DATE)
    plan = score_run(warehouse, users)
    files = warehouse.list_files(*plan.staging)
    files += [
        path
        for path in warehouse.list_files(*plan.staging, suffix=".json")
        if "/shard-0000" in path and "/parts/" not in path
    ]
    path = data.draw(st.sampled_from(files))
    kind = data.draw(st.sampled_from(["gone", "cut", "flipped"]))
    share = data.draw(st.floats(0, 1, exclude_max=True))
    place = int(share * len(warehouse.read_file(path)))
    if kind == "gone":
        Path(warehouse.path(path)).unlink()
    elif kind == "cut":
        damage(warehouse, path, lambda data: data[:place])
    elif path.endswith(".parquet"):
        damage(
            warehouse,
            path,
            lambda data: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :],
        )
    else:
        damage(warehouse, path, lambda data: b"")
    with pytest.raises(R2ecError, match=r"r2ec-cli score --date 2024-05-31 --shard [01]"):
        publish(warehouse, DATE)
    assert visible_rows(warehouse) == {first.run_id: WHOLE}
    for shard in (0, 1):
        score_shard(warehouse, plan, shard, users)
    publish(warehouse, DATE)
    assert visible_rows(warehouse) == {plan.run_id: WHOLE}


def test_failed_users_are_published_with_their_error_and_no_rows(warehouse: Warehouse) -> None:
    users = write_histories(warehouse, NUM_USERS)
    plan = plan_of(warehouse)
    for shard in (0, 1):
        score_shard(warehouse, plan, shard, users, failed=("u0003", "u0004"))
    assert publish(warehouse, DATE).num_errors == 2
    assert visible_rows(warehouse) == {plan.run_id: (36, 36, NUM_USERS)}


def test_files_that_no_manifest_names_are_never_seen(warehouse: Warehouse) -> None:
    plan = score_run(warehouse, write_histories(warehouse, NUM_USERS))
    for table in ("recommendations", "reasoning"):
        source = warehouse.read_file(*plan.staging, table, "shard-00000-part-00000.parquet")
        for folder in ((*plan.staging, table), (table, f"date={DATE}", f"run_id={plan.run_id}")):
            warehouse.replace_file(source, *folder, "shard-00000-part-00099.parquet")
            warehouse.replace_file(source[:9], *folder, ".shard-00000.parquet.7f.tmp")
    publish(warehouse, DATE)
    assert visible_rows(warehouse) == {plan.run_id: WHOLE}


def test_an_unwritable_warehouse_and_a_wrong_date_are_told_by_the_command(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w/_staging").write_text("a file where a folder must be")
    command = [sys.executable, "-m", "r2ec", "publish", "--warehouse", str(tmp_path / "w")]
    for date, code, message in (
        (DATE, 1, "cannot write to the warehouse"),
        ("31.05.2024", 2, "not a day"),
    ):
        done = subprocess.run([*command, "--date", date], capture_output=True, text=True)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)
        assert message in done.stderr
    command[-1] = str(tmp_path / "mistyped")
    done = subprocess.run([*command, "--date", DATE], capture_output=True, text=True)
    told = f"nothing is scored for {DATE} in {tmp_path}/mistyped: r2ec-cli score --date {DATE}"
    assert (done.returncode, done.stderr) == (3, f"error: {told}\n")
    assert not (tmp_path / "mistyped").exists()
