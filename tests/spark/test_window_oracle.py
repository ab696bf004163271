import csv
import gzip
from datetime import date

import pytest
from pyspark.sql import functions as F

from r2ec.etl.histories import build_histories, end_of_day
from r2ec.etl.inputs import InteractionInput
from r2ec.etl.interactions import find_interactions, in_log_order, read_interactions
from r2ec.etl.kcore import k_core
from r2ec.etl.sequences import build_sequences, mark_targets
from r2ec.etl.splits import day_of, find_cuts
from r2ec.etl.staging import open_staging
from r2ec.storage import Warehouse
from tests.factories import window_oracle as oracle
from tests.factories.logs import make_log, write_csv

pytestmark = pytest.mark.spark

CASES = {1: [(20, True), (10, False), (20, False)], 5: [(10, False), (20, False)]}
RATIO = (0.8, 0.1, 0.1)


@pytest.fixture
def staging(tmp_path):
    return open_staging(Warehouse(str(tmp_path / "warehouse")), "test")


def open_log(spark, log, rows):
    """The events of a log, their items by number, and the numbers' ids."""
    items = sorted({row[1] for row in rows})
    catalog = spark.createDataFrame(
        list(zip(items, range(len(items)), strict=True)), "i string, n long"
    )
    files = find_interactions(spark, log)
    read = read_interactions(spark, files, log).join(
        catalog.select(F.col("i").alias("item_id"), F.col("n").alias("item_index")), on="item_id"
    )
    events = in_log_order(read, []).where(F.col("reason").isNull()).drop("reason", "line")
    return events.persist(), items


def found_sequences(events, items, *, window, strict_time):
    marked = mark_targets(events, order=[], strict_time=strict_time)
    targets = marked.where("is_target").select("time")
    by_day = targets.groupBy(day_of(F.col("time")).alias("day")).count().collect()
    cuts = find_cuts({row["day"]: row["count"] for row in by_day}, targets, RATIO)
    built = build_sequences(events, window=window, order=[], strict_time=strict_time, cuts=cuts)
    return {
        (row["user_id"], history(row, items), target(row, items), row["split"])
        for row in plain_rows(built)
    }


def plain_rows(rows):
    """Rows as dictionaries, times in microseconds."""
    times = F.transform("history_time", F.unix_micros).alias("history_time")
    columns = [times if name == "history_time" else F.col(name) for name in rows.columns]
    if "target_time" in rows.columns:
        columns.append(F.unix_micros("target_time").alias("target_micros"))
    return rows.select(*columns).toArrow().to_pylist()


def history(row, items):
    """A history as the oracle has it."""
    ids = [items[index] for index in row["history_item_index"]]
    return tuple(zip(ids, row["history_rating"], row["history_time"], strict=True))


def target(row, items):
    return items[row["target_item_index"]], row["target_rating"], row["target_micros"]


def check(spark, staging, log, rows, micros_per_unit, cases, day):
    """Compare sequences and histories for each `k` of the k-core with its (window, strict)."""
    cleaned = oracle.clean_events(rows, micros_per_unit)
    events, items = open_log(spark, log, rows)
    for k, windows in cases.items():
        ours = k_core(events, staging, min_user_events=k, min_item_events=k).persist()
        core = oracle.core(cleaned, k)
        for window, strict_time in windows:
            wanted = oracle.sequences(core, window=window, strict_time=strict_time)
            assert len(set(wanted)) == len(wanted) > 0
            found = found_sequences(ours, items, window=window, strict_time=strict_time)
            assert found == set(wanted), (k, window, strict_time)
        rows_of_day = plain_rows(build_histories(ours, day, window=window, order=[]))
        known = {row["user_id"]: history(row, items) for row in rows_of_day}
        assert known == oracle.histories(core, window=window, end=end_of_day(day))
        assert [row["user_id"] for row in rows_of_day] == sorted(known)
        ours.unpersist()
    events.unpersist()


def read_gz(path):
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [tuple(row) for row in list(csv.reader(file))[1:]]


def test_a_generated_log_gives_the_rows_of_the_oracle(spark, staging, tmp_path):
    rows = make_log(seed=3, users=40, items=20, events=900)
    log = InteractionInput(paths=(str(write_csv(tmp_path / "log.csv", rows)),))
    cases = {1: [(2, False)], 4: [(3, True), (20, False)]}
    check(spark, staging, log, rows, 1_000, cases, date(2017, 8, 1))


@pytest.mark.realdata
def test_the_office_log_gives_the_rows_of_the_oracle(spark, staging, real_shop):
    path = real_shop("amazon_office") / "Office_Products.csv.gz"
    log = InteractionInput(paths=(str(path),))
    check(spark, staging, log, read_gz(path), 1_000, CASES, date(2018, 3, 1))


@pytest.mark.realdata
def test_the_movielens_log_gives_the_rows_of_the_oracle(spark, staging, real_shop):
    path = real_shop("movielens_small") / "ratings.csv.gz"
    log = InteractionInput(
        paths=(str(path),), user_column="userId", item_column="movieId", time_unit="s"
    )
    check(spark, staging, log, read_gz(path), 1_000_000, CASES, date(2005, 1, 1))
