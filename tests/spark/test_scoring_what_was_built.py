"""Tables as the jobs leave them, in files in no order, go through scoring and publishing whole."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from r2ec import schemas
from r2ec.catalog import load_catalog
from r2ec.storage import Warehouse
from tests.factories.commands import cli
from tests.factories.jobs import read_rows, run_catalog, run_sequences
from tests.factories.logs import DAY_MS, FIRST_MS, make_items, make_log, write_csv, write_jsonl
from tests.factories.models import save_small_model

pytestmark = pytest.mark.spark

ROWS = make_log(seed=3, users=40, items=15, events=800)
LAST_DAY = max(int(row[3]) - FIRST_MS for row in ROWS) // DAY_MS


def day(number: int) -> str:
    return str(datetime.fromtimestamp(FIRST_MS / 1000, UTC).date() + timedelta(days=number))


def test_histories_of_several_tasks_and_of_an_added_day_are_scored_and_published_whole(
    spark, tmp_path: Path
) -> None:
    log, at = tmp_path / "log", ("--warehouse", tmp_path / "w", "--model", tmp_path / "model")
    first = LAST_DAY - 1
    until = FIRST_MS + LAST_DAY * DAY_MS
    write_csv(log / "1.csv", [row for row in ROWS if int(row[3]) < until])
    items = write_jsonl(tmp_path / "meta.jsonl", make_items(ROWS))
    run_catalog(spark, tmp_path / "w", "--items", items, "--interactions", log)
    run_sequences(spark, tmp_path / "w", "--interactions", log, "--date", day(first))
    # Someone new, whose id comes before all others, and who lies in a file behind theirs.
    new = ("A-NEW", ROWS[0][1], "5.0", str(until))
    write_csv(log / "2.csv", [row for row in ROWS if int(row[3]) >= until] + [new])
    added = run_sequences(
        spark, tmp_path / "w", "--interactions", log, "--date", day(LAST_DAY), "--incremental"
    )
    assert "from those of" in added.line()
    warehouse = Warehouse(str(tmp_path / "w"))
    save_small_model(tmp_path / "model", load_catalog(warehouse))
    assert cli("embed", *at) == 0
    for date in (day(first), day(LAST_DAY)):
        users = [row["user_id"] for row in read_rows(tmp_path / "w", "histories", f"date={date}")]
        assert users != sorted(users), "the files happen to be in order: the test shows nothing"
        for shard in (0, 1):
            shards = ("--num-shards", 2, "--shard", shard, "--users-per-part", 4)
            assert cli("score", *at, "--date", date, *shards) == 0
        assert cli("publish", "--warehouse", warehouse.root, "--date", date) == 0
        scored = warehouse.read_table(schemas.REASONING, date=date)["user_id"].to_pylist()
        assert sorted(scored) == sorted(users)
    assert "A-NEW" in scored
    again = ("score", *at, "--date", day(LAST_DAY), "--changed-only", "--seed", 1)
    assert cli(*again) == 0
