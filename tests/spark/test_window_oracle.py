import csv
import gzip
from collections import Counter
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from r2ec import schemas
from r2ec.etl.inputs import InteractionInput
from r2ec.etl.interactions import find_interactions, read_interactions
from r2ec.etl.kcore import k_core
from r2ec.etl.ordered_log import pack_log
from r2ec.etl.sequences import WindowSettings, end_of_day, write_histories, write_sequences
from r2ec.etl.splits import count_targets, find_cuts
from r2ec.etl.staging import STAGING, open_staging
from r2ec.schemas import SPLITS
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
    """The chunks of a log, their items by number, and the numbers' ids."""
    items = sorted({row[1] for row in rows})
    catalog = spark.createDataFrame(
        list(zip(items, range(len(items)), strict=True)), "i string, n long"
    )
    files = find_interactions(spark, log)
    read = read_interactions(spark, files, log).join(
        catalog.select(F.col("i").alias("item_id"), F.col("n").alias("item_index")), on="item_id"
    )
    return pack_log(read, []).persist(), items


def found_sequences(packed, core, items, staging, settings):
    """The sequences as the oracle has them, and how many rows that was."""
    targets = count_targets(packed, core, strict_time=settings.strict_time)
    cuts = find_cuts(packed, core, targets, RATIO, strict_time=settings.strict_time)
    found = []
    for split in SPLITS:
        num_rows = write_sequences(
            packed, core, cuts, split, settings, staging, num_targets=targets.num_targets
        )
        rows = staged_rows(staging, schemas.SEQUENCES, "sequences", f"split={split}")
        assert len(rows) == num_rows
        found += [(row["user_id"], history(row, items), target(row, items), split) for row in rows]
    assert len(found) == targets.num_targets
    return found


def staged_rows(staging, table, *parts):
    """Rows as dictionaries, times in microseconds."""
    warehouse = staging.warehouse
    files = warehouse.list_files(*STAGING, staging.run, *parts)
    rows = pa.concat_tables(
        [pq.read_table(warehouse.path(f)) for f in files] or [table.schema.empty_table()]
    )
    assert rows.schema == table.schema
    micros = [
        pa.field(field.name, pa.list_(pa.int64()))
        if field.name == "history_time"
        else pa.field(field.name, pa.int64())
        if field.name == "target_time"
        else field
        for field in table.schema
    ]
    return rows.cast(pa.schema(micros)).to_pylist()


def history(row, items):
    """A history as the oracle has it."""
    ids = [items[index] for index in row["history_item_index"]]
    return tuple(zip(ids, row["history_rating"], row["history_time"], strict=True))


def target(row, items):
    return items[row["target_item_index"]], row["target_rating"], row["target_time"]


def check(spark, staging, log, rows, micros_per_unit, cases, day):
    """Compare sequences and histories for each `k` of the k-core with its (window, strict)."""
    cleaned = oracle.clean_events(rows, micros_per_unit)
    packed, items = open_log(spark, log, rows)
    for k, windows in cases.items():
        core, _ = k_core(packed, len(items), min_user_events=k, min_item_events=k)
        left = oracle.core(cleaned, k)
        for window, strict_time in windows:
            settings = WindowSettings(window=window, strict_time=strict_time)
            wanted = oracle.sequences(left, window=window, strict_time=strict_time)
            found = found_sequences(packed, core, items, staging, settings)
            assert Counter(found) == Counter(wanted), (k, window, strict_time)
            assert wanted
        write_histories(packed, core, day, settings, staging, num_users=1)
        rows_of_day = staged_rows(staging, schemas.HISTORIES, "histories", f"date={day}")
        known = {row["user_id"]: history(row, items) for row in rows_of_day}
        assert known == oracle.histories(left, window=window, end=end_of_day(day))
        assert len(rows_of_day) == len(known)
    packed.unpersist()


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
