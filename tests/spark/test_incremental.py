import json
import shutil
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2ec.errors import UsageError
from r2ec.etl.arguments import parse_sequences_job
from r2ec.etl.increment_job import run_increment
from tests.factories.jobs import read_rows, run_catalog, run_sequences
from tests.factories.logs import DAY_MS, FIRST_MS, make_items, make_log, write_csv, write_jsonl

pytestmark = pytest.mark.spark

ROWS = make_log(seed=11, users=30, items=12, events=600)
FIRST_DAY = datetime.fromtimestamp(FIRST_MS / 1000, UTC).date()


def day_of(row):
    return (int(row[3]) - FIRST_MS) // DAY_MS


def spread(row, number):
    """The row at an hour of its own within its day, so that few events tie."""
    return (*row[:3], str(int(row[3]) + number % 20 * 3_600_000))


def name(day):
    return f"{FIRST_DAY + timedelta(days=day)}.csv"


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    """A folder with metadata, a catalog of all items, and logs by day."""
    folder = tmp_path_factory.mktemp("shop")
    log = write_csv(folder / "all.csv", ROWS)
    items = write_jsonl(folder / "meta.jsonl", make_items(ROWS))
    run_catalog(spark, folder / "w", "--items", items, "--interactions", log)
    return folder


def write_days(folder, rows, days):
    for day in days:
        write_csv(folder / name(day), [row for row in rows if day_of(row) == day])


def histories(warehouse, day):
    rows = read_rows(warehouse, "histories", f"date={FIRST_DAY + timedelta(days=day)}")
    return sorted(rows, key=lambda row: row["user_id"])


def copy_catalog(shop, place):
    shutil.copytree(shop / "w" / "catalog", place / "catalog")
    return place


def build(spark, warehouse, log, day, *options):
    day = FIRST_DAY + timedelta(days=day)
    return run_sequences(spark, warehouse, "--interactions", log, "--date", day, *options)


def test_days_added_one_by_one_equal_a_full_build(spark, shop, tmp_path, capsys):
    rows = [spread(row, number) for number, row in enumerate(ROWS)]
    # Rows of an earlier day that come late, some of them for the second time.
    late = [row for row in rows if day_of(row) < 30][::25]
    assert len(set(late) & set(rows)) == len(late) > 5
    extra = [(*row[:2], "2.0", str(int(row[3]) + 1_800_000)) for row in late[:3]]
    rows_of_32 = [row for row in rows if day_of(row) == 32] + late + extra
    rows.append(("NEW", "B001", "4.0", str(FIRST_MS + 33 * DAY_MS)))
    log, warehouse = tmp_path / "log", copy_catalog(shop, tmp_path / "w")
    write_days(log, rows, range(31))
    build(spark, warehouse, log, 30, "--window", 6)
    sequences = read_rows(warehouse, "sequences")
    for day in (31, 32, 33):
        if day == 32:
            write_csv(log / name(32), rows_of_32)
        else:
            write_days(log, rows, [day])
        summary = build(spark, warehouse, log, day, "--window", 6, "--incremental")
        assert "from those of" in summary.line()
        assert summary.figures["files read"] == 1
    full = copy_catalog(shop, tmp_path / "full")
    for day in (31, 32, 33):
        for later in range(day + 1, 34):
            (log / name(later)).unlink(missing_ok=True)
        if day == 31:
            (log / name(32)).unlink(missing_ok=True)
        if day == 32:
            write_csv(log / name(32), rows_of_32)
        if day == 33:
            write_days(log, rows, [33])
        if day > 31:
            build(spark, full, log, day, "--window", 6)
            assert histories(warehouse, day) == histories(full, day)
    assert "not incremental" not in capsys.readouterr().err
    assert read_rows(warehouse, "sequences") == sequences
    with_new = [
        day for day in (32, 33) if "NEW" in {r["user_id"] for r in histories(warehouse, day)}
    ]
    assert with_new == [33]


def test_events_after_the_date_are_taken_when_their_day_comes(spark, shop, tmp_path, capsys):
    rows = [spread(row, number) for number, row in enumerate(ROWS)]
    warehouse, full = (copy_catalog(shop, tmp_path / place) for place in ("w", "full"))
    log = tmp_path / "log"
    write_csv(log / "a.csv", [row for row in rows if day_of(row) < 34])
    write_csv(log / "b.csv", [row for row in rows if day_of(row) >= 34])
    build(spark, warehouse, log, 30)
    for day in (32, 36):
        summary = build(spark, warehouse, log, day, "--incremental")
        assert summary.num_filtered["in the histories already"] > 0
        build(spark, full, log, day)
        assert histories(warehouse, day) == histories(full, day)
    assert "not incremental" not in capsys.readouterr().err


def test_where_equality_cannot_be_promised_it_is_said_why(spark, shop, tmp_path):
    log, warehouse = tmp_path / "log", copy_catalog(shop, tmp_path / "w")
    unknown = ("U1", "LATER", "5.0", str(FIRST_MS))
    write_days(log, [*ROWS, unknown], range(10))

    def reason(*options):
        argv = ["--warehouse", str(warehouse), "--interactions", str(log), "--incremental"]
        argv += ["--date", str(FIRST_DAY + timedelta(days=10)), *map(str, options)]
        return run_increment(spark, parse_sequences_job(argv))

    assert "no histories of an earlier day" in reason()
    build(spark, warehouse, log, 9)
    assert "no file of the log is new" in reason()
    write_days(log, ROWS, [10])
    assert "other options" in reason("--window", 3)
    assert "other options" in reason("--since", FIRST_DAY + timedelta(days=1))
    assert "other options" in reason("--rating-column", "parent_asin")
    whole = (log / name(4)).read_text()
    (log / name(4)).write_text(whole + "U001,B000,5.0,1500508800000\n")
    assert f"{name(4)} has changed" in reason()
    (log / name(4)).write_text(whole)
    write_csv(log / "2000.csv", ROWS[:1])
    assert "2000.csv comes before" in reason()
    (log / "2000.csv").unlink()
    add_item(warehouse, "LATER", FIRST_MS)
    assert "items that are new in the catalog have events that were left out" in reason()
    base = warehouse / "histories" / f"date={FIRST_DAY + timedelta(days=9)}"
    (rows,) = base.glob("*.parquet")
    rows.rename(base / "other.parquet")
    assert f"are not as they were written: histories/{base.name}/other.parquet was not" in reason()
    state = base / "_made_from.json"
    assert json.loads(state.read_text())["files"]
    state.unlink()
    assert "is not known" in reason()


def add_item(warehouse, item_id, first_ms):
    """A later catalog version with one item more, whose first event was at a time."""
    (version,) = (warehouse / "catalog").iterdir()
    rows = pq.ParquetFile(next(version.glob("*.parquet"))).read()
    row = rows.slice(0, 1).to_pylist()[0] | {"item_index": rows.num_rows, "item_id": item_id}
    row["first_seen"] = datetime.fromtimestamp(first_ms / 1000, UTC)
    later = warehouse / "catalog" / "version=2100-01-01"
    later.mkdir()
    added = pa.concat_tables([rows, pa.Table.from_pylist([row], schema=rows.schema)])
    pq.write_table(added, later / "part-0.parquet")


def test_an_event_at_the_start_of_a_full_history_takes_the_whole_log(spark, shop, tmp_path, capsys):
    warehouse, full = (copy_catalog(shop, tmp_path / place) for place in ("w", "full"))
    log = tmp_path / "log"
    events = [("U1", f"B00{n}", "5.0", str(FIRST_MS + n * DAY_MS // 2)) for n in range(4)]
    write_csv(log / "a.csv", events)
    build(spark, warehouse, log, 1, "--window", 2)
    write_csv(log / "b.csv", [events[2], ("U1", "B005", "1.0", events[2][3])])
    build(spark, warehouse, log, 2, "--window", 2, "--incremental")
    assert "the very time at which a full history begins" in capsys.readouterr().err
    build(spark, full, log, 2, "--window", 2)
    assert histories(warehouse, 2) == histories(full, 2)


@pytest.mark.parametrize(
    "options",
    [("--min-user-events", 2), ("--max-user-events-per-day", 9), ("--order-by", "rating")],
)
def test_options_that_need_the_whole_log_do_not_go_with_it(spark, shop, tmp_path, options):
    with pytest.raises(UsageError, match=f"does not go with .*{options[0]}"):
        build(spark, shop / "w", shop / "all.csv", 3, "--incremental", *options)
