import shutil
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from r2ec import schemas
from r2ec.errors import GateError, NotReadyError, UsageError
from tests.factories import window_oracle as oracle
from tests.factories.jobs import contents, read_rows, run_catalog, run_sequences
from tests.factories.logs import (
    DAY_MS,
    FIRST_MS,
    make_items,
    make_log,
    make_shop,
    write_csv,
    write_jsonl,
    write_lines,
)

pytestmark = pytest.mark.spark

ROWS = make_log(seed=7, users=25, items=12, events=300)
DIRT = [
    ("U001", "B000", "5.0", "never"),
    ("", "B000", "5.0", str(FIRST_MS)),
    ("U001", "UNKNOWN", "5.0", str(FIRST_MS + 9 * DAY_MS)),
    ("U001", "B000", "five", str(FIRST_MS)),
]


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    """A folder with a log, a log with dirt, metadata, and a warehouse with the catalog."""
    folder = tmp_path_factory.mktemp("shop")
    log, items = make_shop(folder, ROWS)
    write_csv(folder / "dirty.csv", [*ROWS[:100], *DIRT, *ROWS[100:]])
    run_catalog(spark, folder / "w", "--items", items, "--interactions", log)
    return folder


@pytest.fixture
def warehouse(shop, tmp_path):
    """A warehouse of the test's own, with the catalog in it."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "catalog").symlink_to(shop / "w" / "catalog")
    return tmp_path / "w"


@pytest.fixture(scope="module")
def built(spark, shop, tmp_path_factory):
    """A warehouse with everything, to be copied."""
    folder = tmp_path_factory.mktemp("built") / "w"
    shutil.copytree(shop / "w", folder)
    run_sequences(spark, folder, "--interactions", shop / "log.csv.gz")
    return folder


def sequences(warehouse: Path) -> dict[str, list[dict[str, object]]]:
    return {s: read_rows(warehouse, "sequences", f"split={s}") for s in schemas.SPLITS}


def test_the_tables_are_those_of_the_schemas_and_of_the_oracle(spark, shop, warehouse):
    summary = run_sequences(spark, warehouse, "--interactions", shop / "log.csv.gz", "--window", 5)
    items = [row["item_id"] for row in read_rows(shop / "w", "catalog")]
    found = {
        (
            row["user_id"],
            tuple(
                zip(
                    [items[index] for index in row["history_item_index"]],
                    row["history_rating"],
                    [time.timestamp() for time in row["history_time"]],
                    strict=True,
                )
            ),
            (
                items[row["target_item_index"]],
                row["target_rating"],
                row["target_time"].timestamp(),
            ),
            split,
        )
        for split, rows in sequences(warehouse).items()
        for row in rows
    }
    assert found == set(oracle.sequences(oracle.clean_events(ROWS, 1e-3), window=5))
    for table, parts in ((schemas.SEQUENCES, "sequences"), (schemas.HISTORIES, "histories")):
        for file in warehouse.joinpath(parts).rglob("*.parquet"):
            kinds = [kind for kind in pq.read_schema(file).types if "list" not in str(kind)]
            wanted = [kind for kind in table.schema.types if "list" not in str(kind)]
            assert (pq.read_schema(file).names, kinds) == (table.schema.names, wanted)
    # A sequence is known by the place of its target in the input: one gz file, a header first.
    cleaned = dict.fromkeys(ROWS)
    lines = {ROWS.index(row) + 1 for row in cleaned}
    ids = [row["sequence_id"] for rows in sequences(warehouse).values() for row in rows]
    assert len(ids) == len(set(ids))
    assert set(ids) <= lines
    assert summary.num_audits >= 6


def test_every_row_in_is_kept_or_accounted_for(spark, shop, warehouse):
    since = datetime.fromtimestamp((FIRST_MS + 3 * DAY_MS) / 1000, UTC)
    until = datetime.fromtimestamp((FIRST_MS + 35 * DAY_MS) / 1000, UTC)
    options = ("--since", since.isoformat(), "--until", until.date(), "--min-user-events", 3)
    summary = run_sequences(
        spark, warehouse, "--interactions", shop / "dirty.csv", *options, "--min-item-events", 4
    )
    assert summary.rows_in == len(ROWS) + len(DIRT)
    unique = dict.fromkeys(ROWS)
    inside = [row for row in unique if since.timestamp() <= int(row[3]) / 1000 < until.timestamp()]
    core = oracle.clean_events(inside, 1000)
    while len(core) != len(core := step(core)):
        pass
    assert summary.rows_kept == len(core)
    assert summary.num_filtered["dropped by k-core"] == len(inside) - len(core) > 0
    outside = [row for row in ROWS if row not in set(inside)]
    assert summary.num_filtered["outside the time window"] == len(outside) > 0
    assert summary.num_duplicates == len(ROWS) - len(outside) - len(inside) > 0
    reasons = {"bad_time": 1, "missing_user": 1, "unknown_item": 1, "bad_rating": 1}
    assert summary.num_rejected == reasons
    for figure in (f"rows in {summary.rows_in}", f"kept {len(core)}", "quarantined 4", "users "):
        assert figure in summary.line()
    last = datetime.fromtimestamp(max(int(row[3]) for row in inside) // 1000, UTC)
    assert summary.figures["last event"] == f"{last:%Y-%m-%dT%H:%M:%SZ}"
    day = summary.target.removeprefix("histories ")
    quarantine = read_rows(warehouse, "quarantine", "job=build_sequences", f"date={day}")
    assert [row["line"] for row in quarantine] == [",".join(row) for row in DIRT]
    assert all(row["source"].endswith("/dirty.csv") for row in quarantine)
    assert Counter(row["reason"] for row in quarantine) == reasons


def step(events):
    users, items = Counter(e[0] for e in events), Counter(e[1] for e in events)
    return [e for e in events if users[e[0]] >= 3 and items[e[1]] >= 4]


def test_running_again_gives_the_same_rows_and_leaves_nothing_else(spark, shop, warehouse):
    options = ("--interactions", shop / "dirty.csv", "--date", "2017-07-30", "--date", "2017-08-10")
    run_sequences(spark, warehouse, *options)
    first = contents(warehouse)
    spark.conf.set("spark.sql.shuffle.partitions", "7")
    try:
        run_sequences(spark, warehouse, *options)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", "4")
    assert contents(warehouse) == first
    days = {place for place in first if place.startswith("histories/")}
    assert days == {"histories/date=2017-07-30", "histories/date=2017-08-10"}
    assert not list((warehouse / "_staging" / "etl").iterdir())
    clean = ("--interactions", shop / "log.csv.gz", "--date", "2017-08-10")
    run_sequences(spark, warehouse, *clean)
    # What was rejected before is not rejected any more: the partition is replaced by nothing.
    assert "quarantine/job=build_sequences/date=2017-08-10" not in contents(warehouse)


def test_histories_end_with_their_day_and_have_a_hash_of_their_own(spark, shop, warehouse):
    log = shop / "log.csv.gz"
    run_sequences(spark, warehouse, "--interactions", log, "--date", "2017-07-25", "--window", 4)
    run_sequences(spark, warehouse, "--interactions", log, "--date", "2017-07-26", "--window", 4)
    days = [read_rows(warehouse, "histories", f"date=2017-07-2{day}") for day in (5, 6)]
    items = [row["item_id"] for row in read_rows(shop / "w", "catalog")]
    events = oracle.clean_events(ROWS, 1000)
    for rows, end in zip(days, (date(2017, 7, 26), date(2017, 7, 27)), strict=True):
        midnight = int(datetime(end.year, end.month, end.day, tzinfo=UTC).timestamp()) * 10**6
        wanted = oracle.histories(events, window=4, end=midnight)
        assert sorted(row["user_id"] for row in rows) == sorted(wanted)
        for row in rows:
            ids = [items[index] for index in row["history_item_index"]]
            assert ids == [item for item, _, _ in wanted[row["user_id"]]]
    before = {row["user_id"]: row for row in days[0]}
    for row in days[1]:
        old = before.get(row["user_id"])
        if old is not None:
            same = all(
                old[n] == row[n] for n in old if n.startswith("history_") and n != "history_hash"
            )
            assert (old["history_hash"] == row["history_hash"]) == same


def test_events_of_one_time_come_in_the_order_of_a_column_then_of_the_file(spark, tmp_path):
    lines = [
        "user_id,parent_asin,rating,timestamp,step",
        "U,B1,1,1000,10",
        "U,B2,2,1000,9",
        "U,B3,3,1000,9",
        "U,B4,,500,99",
        "U,B1,1,1000,8",
    ]
    log = write_lines(tmp_path / "log.csv", lines)
    items = [{"parent_asin": f"B{n}"} for n in range(1, 5)]
    meta = write_jsonl(tmp_path / "meta.jsonl", items)
    run_catalog(spark, tmp_path / "w", "--items", meta, "--interactions", log)

    def longest(*options):
        run_sequences(spark, tmp_path / "w", "--interactions", log, *options)
        rows = [row for split in sequences(tmp_path / "w").values() for row in split]
        return {row["target_item_index"]: row["history_item_index"] for row in rows}

    assert longest() == {0: [3], 1: [3, 0], 2: [3, 0, 1]}
    # By number, not by text; of exact duplicates the first in the order of the log stays.
    assert longest("--order-by", "step") == {0: [3], 1: [3, 0], 2: [3, 0, 1]}
    assert longest("--strict-time") == {0: [3], 1: [3], 2: [3]}
    write_lines(log, [*lines[:5], "U,B1,1.5,1000,8"])
    assert longest("--order-by", "step") == {0: [3, 0, 1, 2], 1: [3, 0], 2: [3, 0, 1]}


def test_a_log_without_ratings_has_histories_without_ratings(spark, shop, warehouse, tmp_path):
    rows = [(row[0], row[1], row[3]) for row in ROWS]
    log = write_lines(tmp_path / "log.csv", ["user_id,parent_asin,timestamp", *map(",".join, rows)])
    run_sequences(spark, warehouse, "--interactions", log)
    row = sequences(warehouse)["train"][0]
    assert (set(row["history_rating"]), row["target_rating"]) == ({None}, None)
    with pytest.raises(
        UsageError, match=r"no column 'stars' \(it has: user_id, parent_asin, timest"
    ):
        run_sequences(spark, warehouse, "--interactions", log, "--rating-column", "stars")


@pytest.mark.parametrize(
    ("lines", "options", "error", "message"),
    [
        (["user,item,when", "a,b,1"], (), UsageError, r"no column 'parent_asin' \(it has: user"),
        ([], (), NotReadyError, "the log is empty"),
        (["user_id,parent_asin,timestamp"], (), NotReadyError, "the log is empty"),
        (["user_id,parent_asin,timestamp", "U,B,x"], (), GateError, "1 of 1 .*bad_time 1.*--time"),
        (["user_id,parent_asin,timestamp", "U,B,5"], (), GateError, "unknown_item 1"),
        (None, ("--date", "2017-07-01"), NotReadyError, "--date 2017-07-01 lies before"),
        (None, ("--since", "2030-01-01"), NotReadyError, "between --since and --until"),
        (None, ("--min-user-events", 999), NotReadyError, "--min-user-events"),
        (None, ("--time-unit", "s"), GateError, "time_in_milliseconds.*--time-unit ms"),
        (None, ("--catalog-version", "1999-01-01"), NotReadyError, "no catalog version 1999-01-01"),
    ],
)  # fmt: skip
def test_input_that_cannot_be_used_is_named_and_nothing_is_lost(
    spark, shop, built, tmp_path, lines, options, error, message
):
    warehouse = shutil.copytree(built, tmp_path / "w")
    before = contents(warehouse)
    log = shop / "log.csv.gz" if lines is None else write_lines(tmp_path / "bad.csv", lines)
    with pytest.raises(error, match=message):
        run_sequences(spark, warehouse, "--interactions", log, *options)
    after = contents(warehouse)
    added = {place: rows for place, rows in after.items() if place not in before}
    assert {place: after[place] for place in before} == before
    if error is GateError:
        ((place, rows),) = added.items()
        assert place.startswith("quarantine/job=build_sequences/")
        assert len(rows) == (len(ROWS) if lines is None else 1)
    else:
        assert not added


def test_too_many_rejected_rows_stop_the_job_and_a_larger_share_lets_it_go_on(
    spark, shop, warehouse, tmp_path
):
    log = write_csv(tmp_path / "log.csv", [*ROWS, *DIRT * 30])
    with pytest.raises(GateError, match="120 of 420 rows"):
        run_sequences(spark, warehouse, "--interactions", log)
    assert not (warehouse / "sequences").exists()
    run_sequences(spark, warehouse, "--interactions", log, "--max-quarantine-share", 0.3)
    assert all(sequences(warehouse).values())


def test_there_must_be_a_catalog_first(spark, shop, tmp_path):
    with pytest.raises(NotReadyError, match=r"no catalog version at all.*build_catalog\.py"):
        run_sequences(spark, tmp_path / "w", "--interactions", shop / "log.csv.gz")


def test_an_item_added_to_the_metadata_leaves_older_indices_alone(spark, shop, tmp_path):
    log = shop / "log.csv.gz"
    metadata = make_items(ROWS)
    part = write_jsonl(tmp_path / "part.jsonl", metadata[1:])
    everything = write_jsonl(tmp_path / "all.jsonl", metadata)
    options = ("--interactions", log, "--version")
    run_catalog(spark, tmp_path / "w", "--items", part, *options, "2020-01-01")
    run_catalog(spark, tmp_path / "w", "--items", everything, *options, "2020-01-02")
    late = [row["item_id"] for row in read_rows(tmp_path / "w", "catalog", "version=2020-01-02")]
    assert late[-1] == metadata[0]["parent_asin"]
    run_sequences(spark, tmp_path / "w", "--interactions", log)
    used = {row["target_item_index"] for rows in sequences(tmp_path / "w").values() for row in rows}
    assert len(late) - 1 in used


def test_a_split_that_no_cut_leaves_a_row_for_is_told(spark, tmp_path):
    """Whole days, and the last one holds more than the shares of valid and test."""
    rows = [
        (f"U{user:02}", f"B{day}", "5.0", str(FIRST_MS + day * DAY_MS))
        for user in range(9)
        for day in range(3)
    ]
    log, items = make_shop(tmp_path, rows)
    run_catalog(spark, tmp_path / "w", "--items", items, "--interactions", log)
    summary = run_sequences(spark, tmp_path / "w", "--interactions", log)
    assert summary.figures["sequences train/valid/test"] == "18/0/0"
    assert [text.split(" is empty")[0] for text in summary.warnings] == [
        "sequences/split=valid",
        "sequences/split=test",
    ]
    assert "--split-ratio" in summary.warnings[0]
    whole = ("--split-ratio", "1,0,0")
    assert not run_sequences(spark, tmp_path / "w", "--interactions", log, *whole).warnings
