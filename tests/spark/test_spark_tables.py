"""Tables of Spark's catalog as inputs, and the outputs registered in it."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from r2ec.errors import NotReadyError, UsageError
from r2ec.etl.inputs import InteractionInput
from r2ec.etl.interactions import find_interactions, read_interactions
from r2ec.etl.register import register
from r2ec.etl.rows import POSITION_BITS
from r2ec.storage import Warehouse
from tests.factories.jobs import build_shop, contents, read_rows, run_catalog, run_sequences
from tests.factories.logs import HEADER, make_items, make_log

pytestmark = pytest.mark.spark

TYPES = "user_id string, parent_asin string, rating double, timestamp bigint"


@pytest.fixture
def database(spark):
    """An empty database of the session's catalog."""
    spark.sql("CREATE DATABASE shop")
    yield "shop"
    spark.sql("DROP DATABASE shop CASCADE")


def save(spark, rows, types, name, *, partitions=1):
    spark.createDataFrame(rows, types).repartition(partitions).write.saveAsTable(name)


def typed(log):
    return [(user, item, float(rating), int(time)) for user, item, rating, time in log]


def read(spark, name, **settings):
    log = InteractionInput(table=name, **settings)
    return read_interactions(spark, find_interactions(spark, log), log).orderBy("place").collect()


def test_a_table_gives_the_same_rows_in_the_same_places_however_it_is_stored(spark, database):
    log = typed(make_log(events=80))
    save(spark, log, TYPES, "shop.events")
    save(spark, log[::-1], TYPES, "shop.turned", partitions=3)
    rows = read(spark, "shop.events")
    assert sorted((r["user_id"], r["item_id"], r["rating"], r["time"] // 1000) for r in rows) == (
        sorted(log)
    )
    assert read(spark, "shop.turned") == rows
    # Only rows that are equal share a place, and all lie in the first "file".
    assert {row["place"] >> POSITION_BITS for row in rows} == {0}
    assert len({row["place"] for row in rows}) == len(set(log))


def test_jobs_read_tables_and_name_them_in_the_quarantine(spark, database, tmp_path):
    log = make_log(events=120)
    save(spark, [*typed(log), (None, "B000", 1.0, 1)], TYPES, "shop.events")
    items = [(item["parent_asin"], item["title"], item["categories"]) for item in make_items(log)]
    types = "parent_asin string, title string, categories array<string>"
    save(spark, items, types, "shop.items")
    tables = ("--interactions-table", "shop.events", "--order-by", "rating")
    run_catalog(spark, tmp_path / "w", "--items-table", "shop.items", *tables)
    catalog = read_rows(tmp_path / "w", "catalog")
    assert catalog[0]["category"] == f"Things > Kind {catalog[0]['item_id'][-1]}"
    summary = run_sequences(spark, tmp_path / "w", *tables)
    assert summary.num_rejected == {"missing_user": 1}
    (row,) = read_rows(tmp_path / "w", "quarantine", "job=build_sequences")
    assert row["source"] == "shop.events"
    assert json.loads(row["line"]) == {"parent_asin": "B000", "rating": 1.0, "timestamp": 1}
    before = contents(tmp_path / "w")
    run_sequences(spark, tmp_path / "w", *tables)
    assert contents(tmp_path / "w") == before


def test_a_table_that_is_not_there_or_lacks_a_column_is_named(spark, database):
    with pytest.raises(NotReadyError, match=r"--interactions-table shop\.nothing"):
        read(spark, "shop.nothing")
    save(spark, typed(make_log(events=3)), TYPES, "shop.events")
    with pytest.raises(UsageError, match=r"shop\.events has no column 'customer'"):
        read(spark, "shop.events", user_column="customer")
    assert HEADER[0] in TYPES


def test_outputs_are_registered_with_their_partitions(spark, tmp_path, database):
    warehouse = build_shop(spark, tmp_path, make_log(events=200))
    names = ("catalog", "sequences", "histories", "quarantine")
    register(spark, Warehouse(str(warehouse)), database, names)
    for name in names[:3]:
        assert spark.table(f"shop.{name}").count() == len(read_rows(warehouse, name)) > 0
    assert not spark.catalog.tableExists("shop.quarantine")
    splits = spark.sql("SELECT DISTINCT split FROM shop.sequences").collect()
    assert {row["split"] for row in splits} == {"train", "valid", "test"}
    assert dict(spark.table("shop.catalog").dtypes)["version"] == "date"
    spark.sql("DROP TABLE shop.sequences")
    assert read_rows(warehouse, "sequences")


def test_registering_again_shows_the_partitions_that_are_there_now(spark, tmp_path, database):
    rows = make_log(events=60)
    first, second = ("--register", database, "--version"), ("2024-01-01", "2024-01-02")
    for day in second:
        items = tmp_path / f"{day}.jsonl"
        items.write_text("".join(json.dumps(item) + "\n" for item in make_items(rows)))
        run_catalog(spark, tmp_path / "w", "--items", items, *first, day)
        versions = spark.sql("SELECT DISTINCT CAST(version AS STRING) v FROM shop.catalog")
        days = sorted(row["v"] for row in versions.collect())
        assert days == [d for d in second if d <= day]
    folder = tmp_path / "w" / "catalog" / "version=2024-01-01"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    register(spark, Warehouse(str(tmp_path / "w")), database, ("catalog",))
    assert [row[0] for row in spark.sql("SHOW PARTITIONS shop.catalog").collect()] == [
        "version=2024-01-02"
    ]
    save(spark, [(1,)], "a int", "shop.histories")
    (tmp_path / "w" / "histories").mkdir()
    with pytest.raises(UsageError, match=r"histories.* is a table at .*give another database"):
        register(spark, Warehouse(str(tmp_path / "w")), database, ("histories",))
    assert spark.table("shop.histories").count() == 1
    # A job says so before it builds and publishes anything.
    before = contents(tmp_path / "w")
    log = ("--interactions", tmp_path / "log.csv", "--register", database)
    with pytest.raises(UsageError, match=r"histories.* is a table at .*give another database"):
        run_sequences(spark, tmp_path / "w", *log)
    with pytest.raises(UsageError, match=r"catalog.* is a table at .*give another database"):
        run_catalog(spark, tmp_path / "w2", "--items", items, *first, "2024-01-03")
    assert contents(tmp_path / "w") == before
    assert not (tmp_path / "w2").exists()


def test_the_bytes_of_a_table_are_those_of_its_files_where_spark_does_not_know(spark, database):
    rows = spark.createDataFrame(typed(make_log(events=50)), TYPES)
    rows.write.partitionBy("parent_asin").saveAsTable("shop.parted")
    (table,) = find_interactions(spark, InteractionInput(table="shop.parted"))
    files = [Path(urlsplit(file).path) for file in spark.table("shop.parted").inputFiles()]
    assert table.num_bytes == sum(file.stat().st_size for file in files) > 0
