"""`forget`: a user's rows leave every table; all others stay as they were, and so do the counts."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2ec import schemas
from r2ec.errors import NotReadyError
from r2ec.infer.forget import forget_users
from r2ec.infer.lease import Lease
from r2ec.infer.publish import current_run, publish
from r2ec.infer.user_rows import UserFilter
from r2ec.lock import JobLock
from r2ec.row_counts import check_row_counts
from r2ec.storage import Warehouse
from tests.factories.commands import cli
from tests.factories.scored import users_of
from tests.factories.whole_warehouse import (
    DAYS,
    NUM_USERS,
    all_rows,
    mentions,
    names,
    score_day,
    write_counted,
    write_day,
    write_everything,
)

USER = "u0003"
TABLES = {"sequences", "histories", "quarantine", "recommendations", "reasoning"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written once: a sync a file takes time."""
    root = tmp_path_factory.mktemp("whole") / "w"
    write_everything(Warehouse(str(root)))
    return root


@pytest.fixture
def warehouse(whole: Path, tmp_path: Path) -> Warehouse:
    shutil.copytree(whole, tmp_path / "w")
    return Warehouse(str(tmp_path / "w"))


def without(rows: dict[str, list[str]], user: str) -> dict[str, list[str]]:
    """The rows that a deletion must leave, as they are."""
    kept = {path: [row for row in lines if not names(row, user)] for path, lines in rows.items()}
    return {path: lines for path, lines in kept.items() if not path.startswith("runs/")}


def test_no_file_names_the_user_afterwards_and_all_other_rows_stay(warehouse: Warehouse) -> None:
    before = all_rows(warehouse)
    assert {path.split("/")[0] for path in mentions(warehouse, USER)} == TABLES
    done = forget_users(warehouse, [USER])
    assert done.unknown_users == ()
    assert {removal.place.split("/")[0] for removal in done.removals} == TABLES
    # 3 sequences, 2 rejected rows, and on each of 2 days a history, a reasoning and 3 items.
    assert done.num_rows == 3 + 2 + 2 * (1 + 1 + 3)
    assert mentions(warehouse, USER) == []
    after = {path: rows for path, rows in all_rows(warehouse).items() if path[:5] != "runs/"}
    assert after == without(before, USER)


def test_counts_audits_pointer_and_views_go_on(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_users(warehouse, [USER, "u0005"])
    root = warehouse.path()
    assert check_row_counts(warehouse) == []
    assert cli("audit", "--warehouse", root) == 0
    row = current_run(warehouse, DAYS[1])
    assert row is not None
    assert (row["num_users"], row["num_errors"]) == (NUM_USERS - 2, 0)
    assert row["num_recommendations"] == 3 * (NUM_USERS - 2)
    assert publish(warehouse, DAYS[1]).was_already
    capsys.readouterr()
    query = "SELECT count(DISTINCT user_id) AS users FROM v_recommendations"
    assert cli("sql", "--warehouse", root, "--format", "csv", "-q", query) == 0
    assert capsys.readouterr().out.split() == ["users", str(NUM_USERS - 2)]


def test_a_second_run_changes_no_file_and_names_the_user_as_unknown(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_users(warehouse, [USER])
    files = {path: warehouse.read_file(path) for path in warehouse.all_files()}
    assert cli("forget", "--warehouse", warehouse.path(), "--yes", USER) == 0
    assert {path: warehouse.read_file(path) for path in warehouse.all_files()} == files
    shown = capsys.readouterr().out
    assert "0 rows removed" in shown
    assert f"no row of 1 of the users, forgotten before or never there: {USER}" in shown


def test_a_dry_run_shows_the_table_and_removes_nothing(
    warehouse: Warehouse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {path: warehouse.read_file(path) for path in warehouse.all_files()}
    (tmp_path / "users.txt").write_text(f"{USER}\n\nnobody\n")
    at = ("forget", "--warehouse", warehouse.path(), "--users", tmp_path / "users.txt")
    assert cli(*at, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert f"histories/date={DAYS[0]}" in shown
    assert "15 rows to be removed" in shown
    assert "never there: nobody" in shown
    assert cli(*at) == 2
    assert "give --yes" in capsys.readouterr().err
    assert {path: warehouse.read_file(path) for path in warehouse.all_files()} == files


def test_no_user_and_no_warehouse_are_wrong_use(
    warehouse: Warehouse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("forget", "--warehouse", warehouse.path(), "--yes") == 2
    assert "no user is named" in capsys.readouterr().err
    assert cli("forget", "--warehouse", tmp_path / "none", "--yes", USER) == 3


def test_a_run_that_was_being_scored_is_removed_and_one_of_other_users_stays(
    warehouse: Warehouse,
) -> None:
    write_day(warehouse, "2024-06-01", num_users=3)  # not u0003, and not published
    users = users_of(NUM_USERS)
    score_day(warehouse, DAYS[1], [*users, *users_of(13)[12:]], shards=(0,))
    done = forget_users(warehouse, [USER])
    assert [(r.num_rows, r.note) for r in done.removals if r.place.startswith("_staging")] == [
        (None, "was being scored: score the date again")
    ]
    assert warehouse.subfolders("_staging", "score", f"date={DAYS[1]}") == []
    assert publish(warehouse, "2024-06-01").num_users == 3


def test_a_date_that_waits_to_be_published_is_published_first(warehouse: Warehouse) -> None:
    write_day(warehouse, "2024-06-01")
    with pytest.raises(NotReadyError, match="publish --date 2024-06-01 first"):
        forget_users(warehouse, [USER])
    publish(warehouse, "2024-06-01")
    forget_users(warehouse, [USER])
    assert mentions(warehouse, USER) == []


def test_nothing_is_deleted_beside_a_job_or_a_scorer(warehouse: Warehouse) -> None:
    with (
        JobLock(warehouse, "build_sequences"),
        pytest.raises(NotReadyError, match="build_sequences runs already"),
    ):
        forget_users(warehouse, [USER])
    with Lease(warehouse, "score-x-shard-00000", what="") as lease:
        holder = lease.holder()
        assert holder is not None
        card = f'{{"host": "another", "pid": 1, "token": "t", "heartbeat": {holder.heartbeat}}}'
        warehouse.replace_file(card.encode(), "_staging", "leases", "score-y-shard-00000.json")
        with pytest.raises(NotReadyError, match="score-y-shard-00000 is at work: host another"):
            forget_users(warehouse, [USER])
    assert mentions(warehouse, USER)


def test_what_dead_jobs_left_goes_but_for_tables_half_in_place(warehouse: Warehouse) -> None:
    left = ("_staging", "etl", "build_sequences-abc")
    for name in ("_temporary/0/part-0.parquet", "histories/date=2024-06-01/.part.x.tmp"):
        warehouse.replace_file(f"half a file of {USER}".encode(), *left, name)
    torn = ("histories", f"date={DAYS[0]}", ".part-0.parquet.x.tmp")
    warehouse.replace_file(f"half a file of {USER}".encode(), *torn)
    forget_users(warehouse, [USER])
    assert mentions(warehouse, USER) == []
    assert not warehouse.exists(*left)
    warehouse.replace_file(b"{}", *left, "ready.json")
    with pytest.raises(NotReadyError, match=r"jobs/build_sequences.py again, which finishes it"):
        forget_users(warehouse, ["u0004"])


def test_a_damaged_partition_still_shows_after_a_deletion(warehouse: Warehouse) -> None:
    folder = ("histories", f"date={DAYS[0]}")
    rows = warehouse.read_table(schemas.HISTORIES, date=DAYS[0])
    warehouse.write_parquet(rows.slice(6, 5), *folder, "part-00001.parquet")
    forget_users(warehouse, [USER])
    (line,) = check_row_counts(warehouse)
    assert "part-00001.parquet has 4 rows: 6 were written" in line


@pytest.mark.parametrize(
    ("user", "line", "is_theirs"),
    [
        ("1", "1::31::5.0::9", True),
        ("1", "11,31,5.0,9", False),
        ("o'hara", "o'hara,B1,5", True),
        ('a"b', 'x,"a""b",5', True),
        ("Žofie", '{"user": "\\u017dofie"}', True),
        ("Žofie", "AŽofie,5", False),
        ("a.b", "axb,5", False),
        ("a b", "q\ta b\t5", True),
        ("U1", "u1,B1", False),
    ],
)
def test_a_rejected_row_is_of_the_user_whose_id_it_has_as_a_word(
    tmp_path: Path, user: str, line: str, is_theirs: bool
) -> None:
    warehouse = Warehouse(str(tmp_path))
    row = {"source": "log", "line": line, "reason": "bad_time", "run_id": "r"}
    write_counted(warehouse, schemas.QUARANTINE, [row], "job=j", "date=2024-01-01")
    path = "quarantine/job=j/date=2024-01-01/part-0.parquet"
    found = UserFilter([user]).find(warehouse, path)
    assert (found.num_found, found.users) == ((1, {user}) if is_theirs else (0, frozenset()))


def test_row_groups_without_the_users_are_not_decoded_and_keep_their_size(tmp_path: Path) -> None:
    users = [f"u{number:04d}" for number in range(400)]
    rows = pa.table({"user_id": users, "value": range(400)})
    (tmp_path / "t").mkdir()
    pq.write_table(rows, tmp_path / "t" / "a.parquet", row_group_size=100, use_dictionary=False)
    wanted = UserFilter(["u0150", "u0299", "zzz"])
    with pq.ParquetFile(tmp_path / "t" / "a.parquet") as file:
        assert wanted._groups(file, "user_id") == [1, 2]
    warehouse = Warehouse(str(tmp_path))
    wanted.remove(warehouse, "t/a.parquet")
    with pq.ParquetFile(tmp_path / "t" / "a.parquet") as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(4)]
        assert sizes == [100, 99, 99, 100]
        assert not file.metadata.row_group(0).column(0).has_dictionary_page
        left = file.read()["user_id"].to_pylist()
    assert left == [user for user in users if user not in ("u0150", "u0299")]
