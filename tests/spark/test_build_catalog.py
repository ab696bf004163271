from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2ec import schemas
from r2ec.errors import GateError, NotReadyError, UsageError
from r2ec.storage import Warehouse
from tests.factories.jobs import contents, read_rows, run_catalog
from tests.factories.logs import (
    make_items,
    make_log,
    make_shop,
    write_csv,
    write_jsonl,
    write_lines,
)

pytestmark = pytest.mark.spark

LOG = [
    ("U1", "B2", "5.0", "86400000"),
    ("U1", "B1", "4.0", "172800000"),
    ("U2", "B2", "3.0", "259200000"),
    ("U2", "BX", "3.0", "259200001"),
]


def catalog(warehouse, version):
    return read_rows(warehouse, "catalog", f"version={version}")


def test_items_are_merged_cleaned_and_numbered_by_id(spark, tmp_path):
    log = write_csv(tmp_path / "log.csv", LOG)
    lines = [
        '{"parent_asin":" B2 ","title":"Pen &amp; ink","price":"$1,299.50","store":"Acme"}',
        '{"parent_asin":"B1","title":"Old","description":["A","<b>B</b>"],"categories":["X","Y"],'
        '"price":9.5,"average_rating":4.9,"rating_number":12}',
        '{"parent_asin":"B1","title":"New","description":[],"store":null,"main_category":"M"}',
        '{"parent_asin":"B3"}',
        '{"parent_asin":"","title":"no id"}',
        '{"parent_asin":"B4","title":"cut off',
    ]
    items = write_lines(tmp_path / "meta.jsonl", lines)
    options = ("--items", items, "--interactions", log, "--max-quarantine-share", 0.5)
    summary = run_catalog(spark, tmp_path / "w", *options)
    second, first, bare = (
        catalog(tmp_path / "w", "1970-01-04")[1::-1] + catalog(tmp_path / "w", "1970-01-04")[2:]
    )
    assert [first["item_index"], second["item_index"], bare["item_index"]] == [0, 1, 2]
    assert {name: first[name] for name in ("item_id", "title", "description", "category")} == {
        "item_id": "B1",
        "title": "New",
        "description": "A B",
        "category": "X > Y",
    }
    assert (second["item_id"], second["title"], second["price"]) == ("B2", "Pen & ink", 1299.5)
    assert second["first_seen"] == datetime(1970, 1, 2, tzinfo=UTC)
    assert [bare[name] for name in ("title", "description", "category", "store", "price")] == [
        None
    ] * 5
    assert bare["first_seen"] is None
    assert len({first["text_hash"], second["text_hash"], bare["text_hash"]}) == 3
    assert (summary.rows_in, summary.rows_kept, summary.num_duplicates) == (6, 3, 1)
    assert summary.num_rejected == {"missing_item": 1, "broken_row": 1}
    rejected = read_rows(tmp_path / "w", "quarantine", "job=build_catalog", "date=1970-01-04")
    assert [(row["line"], row["reason"]) for row in rejected] == [
        (lines[4], "missing_item"),
        (lines[5], "broken_row"),
    ]
    assert "items of the log without metadata (left out) 1" in summary.line()


def test_the_file_has_the_columns_and_types_of_the_schema(spark, tmp_path):
    log, items = make_shop(tmp_path, make_log(events=50))
    run_catalog(spark, tmp_path / "w", "--items", items, "--interactions", log)
    (version,) = Warehouse(str(tmp_path / "w")).partitions("catalog", "version")
    (file,) = (tmp_path / "w" / "catalog" / f"version={version}").glob("*.parquet")
    found = pq.read_schema(file)
    assert found.names == schemas.CATALOG.schema.names
    assert found.types == schemas.CATALOG.schema.types
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_later_version_appends_and_never_renumbers(spark, tmp_path):
    log = write_csv(tmp_path / "log.csv", LOG)
    old = [{"parent_asin": item, "title": item} for item in ("B5", "B3")]
    new = [{"parent_asin": item, "title": f"new {item}"} for item in ("B4", "B3", "B1")]
    first = write_jsonl(tmp_path / "old.jsonl", old)
    second = write_jsonl(tmp_path / "new.jsonl", new)
    options = ("--interactions", log, "--version")
    run_catalog(spark, tmp_path / "w", "--items", first, *options, "2024-01-01")
    summary = run_catalog(spark, tmp_path / "w", "--items", second, *options, "2024-01-02")
    before, after = (catalog(tmp_path / "w", f"2024-01-0{day}") for day in (1, 2))
    assert [row["item_id"] for row in before] == ["B3", "B5"]
    assert [(row["item_id"], row["title"]) for row in after] == [
        ("B3", "new B3"),
        ("B5", "B5"),
        ("B1", "new B1"),
        ("B4", "new B4"),
    ]
    assert [row["item_index"] for row in after] == [0, 1, 2, 3]
    assert after[0]["text_hash"] != before[0]["text_hash"]
    assert after[1] == before[1]
    assert summary.figures["new items"] == 2
    with pytest.raises(UsageError, match=r"2024-01-02 is later than 2023-12-31"):
        run_catalog(spark, tmp_path / "w", "--items", first, *options, "2023-12-31")
    again = contents(tmp_path / "w")
    run_catalog(spark, tmp_path / "w", "--items", second, *options, "2024-01-02")
    assert contents(tmp_path / "w") == again


def test_items_that_only_the_log_knows_may_be_kept(spark, tmp_path):
    log = write_csv(tmp_path / "log.csv", LOG)
    items = write_jsonl(tmp_path / "meta.jsonl", [{"parent_asin": "B2", "title": "T"}])
    options = ("--items", items, "--interactions", log, "--unknown-items", "keep")
    run_catalog(spark, tmp_path / "w", *options)
    rows = catalog(tmp_path / "w", "1970-01-04")
    assert [(row["item_id"], row["title"]) for row in rows] == [
        ("B1", None),
        ("B2", "T"),
        ("BX", None),
    ]
    assert rows[2]["first_seen"] == datetime(1970, 1, 4, 0, 0, 0, 1000, tzinfo=UTC)


def test_csv_and_parquet_metadata_with_a_mapping(spark, tmp_path):
    log = write_lines(
        tmp_path / "ratings.csv", ["userId,movieId,rating,timestamp", "1,10,3.5,86400"]
    )
    movies = write_lines(
        tmp_path / "movies.csv", ["movieId,title,genres", '10,"Go, Now",Drama|Film-Noir', "9,Up,"]
    )
    options = ("--interactions", log, "--mapping", "movielens")
    run_catalog(spark, tmp_path / "w", "--items", movies, *options)
    rows = catalog(tmp_path / "w", "1970-01-02")
    assert [(row["item_id"], row["title"], row["category"]) for row in rows] == [
        ("10", "Go, Now", "Drama > Film-Noir"),
        ("9", "Up", None),
    ]
    table = pa.table(
        {"movieId": [9, 10], "title": ["Up", "Go, Now"], "genres": [[], ["Drama", "Film-Noir"]]}
    )
    pq.write_table(table, tmp_path / "movies.parquet")
    run_catalog(spark, tmp_path / "w2", "--items", tmp_path / "movies.parquet", *options)
    assert catalog(tmp_path / "w2", "1970-01-02") == rows


def test_bad_metadata_is_named_and_leaves_the_catalog_as_it_was(spark, tmp_path):
    rows = make_log(events=40)
    log, items = make_shop(tmp_path, rows)
    options = ("--interactions", log)
    run_catalog(spark, tmp_path / "w", "--items", items, *options)
    before = contents(tmp_path / "w")
    other = write_jsonl(tmp_path / "other.jsonl", [{"sku": "B1", "name": "x"}])
    with pytest.raises(
        UsageError, match=r"no column 'parent_asin' \(it has: sku, name\).*--items-item"
    ):
        run_catalog(spark, tmp_path / "w", "--items", other, *options)
    with pytest.raises(UsageError, match=r"no column 'brand'.*--store-column"):
        run_catalog(spark, tmp_path / "w", "--items", items, "--store-column", "brand", *options)
    with pytest.raises(NotReadyError, match="no such file"):
        run_catalog(spark, tmp_path / "w", "--items", tmp_path / "nothing*.jsonl", *options)
    with pytest.raises(UsageError, match=r"notes\.md: cannot tell its format"):
        run_catalog(
            spark, tmp_path / "w", "--items", write_lines(tmp_path / "notes.md", ["x"]), *options
        )
    empty = write_lines(tmp_path / "empty.jsonl", [])
    with pytest.raises(NotReadyError, match="no item in it"):
        run_catalog(spark, tmp_path / "w", "--items", empty, *options)
    assert contents(tmp_path / "w") == before
    good = [{**item, "title": "changed"} for item in make_items(rows)]
    broken = write_jsonl(tmp_path / "broken.jsonl", [*good, *[{"parent_asin": ""}] * 10])
    with pytest.raises(GateError, match=r"missing_item 10.*--max-quarantine-share"):
        run_catalog(spark, tmp_path / "w", "--items", broken, *options)
    after = contents(tmp_path / "w")
    (quarantine,) = set(after) - set(before)
    assert len(after.pop(quarantine)) == 10
    assert after == before


def test_of_conflicting_rows_the_newest_value_that_is_not_empty_wins(spark, tmp_path):
    """By the time column where there is one, then by the place in the input; never by chance."""
    rows = [
        ("B1", "newest", "", "2024-03-01"),
        ("B1", "older", "Acme", "2024-02-01T00:00:00Z"),
        ("B1", "undated", "Nobody", "some day"),
        ("B2", "one", "", "2024-01-01"),
        ("B2", "two", "", "2024-01-01"),
        ("B3", "same", "S", "2024-01-01"),
        ("B3", "same", "", "2024-01-02"),
        ("B4", "kept", "S", "2024-01-05"),
        ("B4", "[]", "null", "2024-01-06"),
    ]
    header = ("parent_asin", "title", "store", "changed")
    names = [f"part-{n}.csv" for n in range(3)]
    for number, name in enumerate(names):
        write_csv(tmp_path / "meta" / name, rows[number * 3 : number * 3 + 3], header)
    options = ("--items", tmp_path / "meta", "--version", "2024-04-01")
    summary = run_catalog(spark, tmp_path / "w", *options, "--updated-column", "changed")
    found = [(r["title"], r["store"]) for r in catalog(tmp_path / "w", "2024-04-01")]
    assert found == [("newest", "Acme"), ("two", None), ("same", "S"), ("kept", "S")]
    assert summary.figures["items with conflicting metadata"] == 2
    assert summary.num_duplicates == 5
    run_catalog(spark, tmp_path / "w2", *options)
    found = [(r["title"], r["store"]) for r in catalog(tmp_path / "w2", "2024-04-01")]
    assert found[0] == ("undated", "Nobody")


def test_the_table_of_reasons_has_an_example_of_each(spark, tmp_path):
    lines = ['{"parent_asin":"B1"}', '{"parent_asin":""}', "{broken", '{"title":"no id"}']
    items = write_lines(tmp_path / "meta.jsonl", lines)
    options = ("--version", "2024-01-01", "--max-quarantine-share")
    summary = run_catalog(spark, tmp_path / "w", "--items", items, *options, 0.75)
    assert [line.split()[:2] for line in summary.table().splitlines()[:2]] == [
        ["reason", "rows"],
        ["missing_item", "2"],
    ]
    assert 'e.g. {"parent_asin":""}' in summary.table()
    assert "e.g. {broken" in summary.table()
    with pytest.raises(GateError, match=r'missing_item: no item.*such as .{"parent_asin":""}'):
        run_catalog(spark, tmp_path / "w", "--items", items, *options, 0.1)


def test_a_title_of_a_megabyte_and_control_characters_do_no_harm(spark, tmp_path):
    rows = [
        {"parent_asin": "B1", "title": "word " * 200_000, "description": ["a\u0000b\u001b[31m"]},
        {"parent_asin": "B\u0000", "title": "x"},
    ]
    items = write_jsonl(tmp_path / "meta.jsonl.gz", rows)
    options = ("--version", "2024-01-01", "--max-quarantine-share", 0.5)
    summary = run_catalog(spark, tmp_path / "w", "--items", items, *options)
    (row,) = catalog(tmp_path / "w", "2024-01-01")
    assert len(row["title"]) == 509
    assert row["description"] == "a b [31m"
    assert summary.num_rejected == {"nul_byte": 1}


@pytest.mark.parametrize("unknown_items", ["quarantine", "keep"])
def test_a_day_that_brings_its_own_files_alone_empties_no_text(spark, tmp_path, unknown_items):
    old = [("U1", "B1", "5.0", "172800000"), ("U1", "B2", "5.0", "259200000")]
    new = [("U2", "B1", "5.0", "345600000"), ("U2", "B3", "5.0", "432000000")]
    options = ("--unknown-items", unknown_items, "--interactions")
    for day, (rows, item) in enumerate([(old, "B1"), (new, "B2")]):
        log = write_csv(tmp_path / f"{day}.csv", rows)
        metadata = [{"parent_asin": item, "title": f"Thing {item}"}]
        items = write_jsonl(tmp_path / f"{day}.jsonl", metadata)
        run_catalog(spark, tmp_path / "w", "--items", items, *options, log)
    found = {
        row["item_id"]: (row["title"], row["first_seen"] and row["first_seen"].day)
        for row in read_rows(tmp_path / "w", "catalog", "version=1970-01-06")
    }
    assert found["B1"] == ("Thing B1", 3)
    assert found["B2"] == ("Thing B2", 4 if unknown_items == "keep" else None)
    assert ("B3" in found) == (unknown_items == "keep")
