"""Rows by ascending user from files in any order, with a buffer that holds some, one or all."""

import errno
import tempfile
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ec.errors import R2ecError
from r2ec.infer import by_user
from r2ec.infer.by_user import iter_shard_histories, sorted_by_user
from r2ec.infer.plan import shard_of
from r2ec.storage import Warehouse
from tests.factories.scored import DATE, users_of, write_histories

SCHEMA = pa.schema(
    [("user_id", pa.string()), ("place", pa.int64()), ("items", pa.list_(pa.int64()))]
)


def batch(users: list[str], first: int) -> pa.RecordBatch:
    places = range(first, first + len(users))
    rows = {"user_id": users, "place": places, "items": [[place] * (place % 3) for place in places]}
    return pa.RecordBatch.from_pydict(rows, schema=SCHEMA)


def batches_of(files: list[list[str]]) -> list[pa.RecordBatch]:
    starts = [sum(map(len, files[:number])) for number in range(len(files))]
    return [batch(users, first) for users, first in zip(files, starts, strict=True)]


@given(
    st.lists(st.lists(st.text(alphabet="aAé😀\x00z", max_size=3), max_size=6), max_size=8),
    st.sampled_from([1, 100, 10**9]),
    st.sampled_from([1, 2, 8192]),
)
def test_every_row_comes_once_by_ascending_user(
    files: list[list[str]], buffer_bytes: int, run_rows: int
) -> None:
    batches = batches_of(files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_user, "RUN_ROWS", run_rows)
        rows = [
            row
            for table in sorted_by_user(iter(batches), buffer_bytes=buffer_bytes)
            for row in table.to_pylist()
        ]
    assert sorted(rows, key=lambda row: row["place"]) == [
        row for part in batches for row in part.to_pylist()
    ]
    assert all(one["user_id"] <= other["user_id"] for one, other in pairwise(rows))


def test_runs_that_do_not_fit_into_the_buffer_are_merged_and_removed(tmp_path: Path) -> None:
    users = [f"u{number * 7919 % 1000:04d}" for number in range(1000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        batches = batches_of([users[first : first + 50] for first in range(0, 1000, 50)])
        reading = sorted_by_user(iter(batches), buffer_bytes=4 * batches[0].nbytes)
        first = next(reading)
        assert len(list(tmp_path.rglob("*.arrow"))) == 5
        found = [first, *reading]
    assert pa.concat_tables(found)["user_id"].to_pylist() == sorted(users)
    assert not list(tmp_path.iterdir())


def test_no_room_for_the_runs_says_where_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pa, "OSFile", full)
    with pytest.raises(R2ecError, match=r"No space left on device\): set TMPDIR"):
        list(sorted_by_user(iter([batch(["b", "a"], 0)]), buffer_bytes=1))


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_shard_has_its_users_and_no_others(tmp_path: Path, num_shards: int) -> None:
    warehouse = Warehouse(str(tmp_path))
    write_histories(warehouse, 40)
    found = [
        [user.user_id for user in iter_shard_histories(warehouse, DATE, shard, num_shards)]
        for shard in range(num_shards)
    ]
    users = [user.user_id for user in users_of(40)]
    for shard, names in enumerate(found):
        assert names == [name for name in users if shard_of(name, num_shards) == shard]
