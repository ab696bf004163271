"""Every ready mapping over rows as its shops write them."""

import json

import pytest

from r2ec.etl.arguments import parse_catalog_job, parse_sequences_job
from r2ec.etl.catalog import merge_items, read_items, with_text
from r2ec.etl.files import find_inputs
from r2ec.etl.interactions import find_interactions, read_interactions
from tests.factories.jobs import read_rows, run_catalog, run_sequences
from tests.factories.logs import write_jsonl, write_lines

pytestmark = pytest.mark.spark


def log_rows(spark, *options):
    """Rows of the log that these options name: (user, item, rating, seconds), or the reason."""
    argv = ["--warehouse", "w", "--interactions", *map(str, options)]
    log = parse_sequences_job(argv).interactions
    rows = read_interactions(spark, find_interactions(spark, log), log).orderBy("place").collect()
    return [
        row["reason"] or (row["user_id"], row["item_id"], row["rating"], row["time"] / 1e6)
        for row in rows
    ]


def item_texts(spark, *options):
    """`item_id` -> cleaned text of the metadata that these options name."""
    argv = ["--warehouse", "w", "--version", "2024-01-01", "--items", *map(str, options)]
    items = parse_catalog_job(argv).items
    merged = merge_items(read_items(spark, find_inputs(spark, items, "--items"), items))
    rows = with_text(merged, items.categories_separator).drop("is_conflicting").collect()
    return {row["item_id"]: row.asDict() for row in rows}


def test_amazon_2023(spark, tmp_path):
    log = write_lines(
        tmp_path / "r.csv",
        [
            "user_id,parent_asin,rating,timestamp",
            "AE2,B01,5.0,1600000000000",
            "AE2,B02,9,1600000000000",
            "AE2,B02,0.0,1600000000000",
        ],
    )
    assert log_rows(spark, log, "--mapping", "amazon2023") == [
        ("AE2", "B01", 5.0, 1.6e9),
        "rating_out_of_range",
        "rating_out_of_range",
    ]


REVIEWS_2018 = [
    {
        "overall": 5.0,
        "verified": True,
        "reviewTime": "09 13, 2009",
        "reviewerID": "A1",
        "asin": "0001",
        "style": {"Format:": " Hardcover"},
        "reviewText": "Nice\nbook",
        "unixReviewTime": 1252800000,
    },
    {"overall": 4.0, "reviewerID": "A2", "asin": "0002", "unixReviewTime": 1252886400},
]
ITEMS_2018 = [
    {
        "asin": "0001",
        "title": "Pens &amp; Ink",
        "brand": "Acme",
        "category": ["Office", "Pens &amp; Pencils"],
        "description": ["One.", "Two."],
        "feature": ["Blue"],
        "main_cat": "Office Products",
        "price": "$12.99",
    },
    {
        "asin": "0002",
        "title": "Desk",
        "category": "['Office', 'Desks']",
        "description": "[]",
        "feature": '["Solid wood", "Heavy"]',
        "main_cat": "Office",
        "price": "$12.99 - $25.00",
    },
    {"asin": "0003", "price": ".a-box{margin:5px}\n" * 10, "category": [], "main_cat": "Toys"},
]


def expect_items_2018(found):
    assert found["0001"] | {"text_hash": ""} == {
        "item_id": "0001",
        "title": "Pens & Ink",
        "description": "One. Two.",
        "category": "Office > Pens & Pencils",
        "store": "Acme",
        "price": 12.99,
        "text_hash": "",
    }
    second = [found["0002"][name] for name in ("description", "category", "store", "price")]
    assert second == ["Solid wood Heavy", "Office > Desks", None, 12.99]
    assert (found["0003"]["price"], found["0003"]["category"]) == (None, "Toys")


def test_amazon_2018(spark, tmp_path):
    log = write_jsonl(tmp_path / "reviews.json.gz", REVIEWS_2018)
    assert log_rows(spark, log, "--mapping", "amazon2018") == [
        ("A1", "0001", 5.0, 1252800000),
        ("A2", "0002", 4.0, 1252886400),
    ]
    items = write_jsonl(tmp_path / "meta.json.gz", ITEMS_2018)
    expect_items_2018(item_texts(spark, items, "--mapping", "amazon2018"))


def test_amazon_2018_as_python_dictionaries(spark, tmp_path):
    log = write_lines(tmp_path / "reviews.json", [*map(repr, REVIEWS_2018), "{'overall': open(x)}"])
    options = ("--mapping", "amazon2018", "--interactions-format", "pydict")
    assert log_rows(spark, log, *options) == [
        ("A1", "0001", 5.0, 1252800000),
        ("A2", "0002", 4.0, 1252886400),
        "broken_row",
    ]
    items = write_lines(tmp_path / "meta.json", [repr(item) for item in ITEMS_2018])
    options = ("--mapping", "amazon2018", "--items-format", "pydict")
    expect_items_2018(item_texts(spark, items, *options))


def test_movielens(spark, tmp_path):
    log = write_lines(
        tmp_path / "ratings.csv",
        ["userId,movieId,rating,timestamp", "1,31,2.5,1260759144", "1,31,5.5,1260759144"],
    )
    assert log_rows(spark, log, "--mapping", "movielens") == [
        ("1", "31", 2.5, 1260759144),
        "rating_out_of_range",
    ]
    items = write_lines(
        tmp_path / "movies.csv", ["movieId,title,genres", '31,"Go, Now (1995)",Drama|Film-Noir']
    )
    found = item_texts(spark, items, "--mapping", "movielens")["31"]
    assert (found["title"], found["category"]) == ("Go, Now (1995)", "Drama > Film-Noir")


def test_plain_events_of_several_files_a_day(spark, tmp_path):
    """Files in both formats, in a folder a day; only purchases are events."""
    rows = [
        {"user_id": "u1", "item_id": "i1", "event_type": "view", "timestamp": "2024-01-01T10:00Z"},
        {
            "user_id": "u1",
            "item_id": "i1",
            "event_type": "purchase",
            "timestamp": "2024-01-01T10:00:01.5+01:00",
        },
    ]
    write_jsonl(tmp_path / "2024-01-01" / "00.jsonl.gz", rows)
    header = "timestamp,event_type,user_id,item_id"
    late = "2024-01-01 23:00:00,purchase,u2,i2"
    write_lines(tmp_path / "2024-01-01" / "12.csv", [header, late])
    broken = "2024-01-02 00:00:00,purchase,u2,i2,more"
    write_lines(tmp_path / "2024-01-02" / "00.csv", [header, broken, "x,,u2,i2"])
    keep = ("--keep-column", "event_type", "--keep-values", "purchase,order")
    assert log_rows(spark, tmp_path, "--mapping", "events", *keep) == [
        ("u1", "i1", None, 1704099601.5),
        ("u2", "i2", None, 1704150000.0),
        "broken_row",
    ]
    everything = log_rows(spark, tmp_path, "--mapping", "events")
    assert len(everything) == 5
    assert everything[0] == ("u1", "i1", None, 1704103200.0)


LINES = [
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country",
    "536365,85123A,WHITE HEART HOLDER,6,12/1/2010 8:26,2.55,17850,United Kingdom",
    '536365,71053,"LANTERN, WHITE",1,12/1/2010 8:26,3.39,17850,United Kingdom',
    "C536379,85123A,wrong,-6,12/2/2010 9:41,2.55,17850,United Kingdom",
    "536380,85123A,damaged,-2,12/3/2010 9:41,0,,United Kingdom",
    "536381,85123A,WHITE HEART HOLDER NEW,2,12/4/2010 9:41,2.75,13047,United Kingdom",
    "536382,71053,?,many,12/4/2010 9:42,3.39,13047,United Kingdom",
    "536383,71053,,1,12/4/2010 9:43,,13047,United Kingdom",
    "536384,71053,,1,12/4/2010 9:44,3.39,,United Kingdom",
    "A563185,B,Adjust,1,8/12/2011 14:50,11062.06,,United Kingdom",
]
LINE_REASONS = [
    None,
    None,
    "cancelled",
    "cancelled",
    None,
    "bad_quantity",
    None,
    "missing_user",
    "missing_user",
]


def test_transaction_lines_are_log_and_metadata_at_once(spark, tmp_path):
    lines = write_lines(tmp_path / "retail.csv", LINES)
    rows = log_rows(spark, lines, "--mapping", "transactions")
    assert [row if isinstance(row, str) else None for row in rows] == LINE_REASONS
    assert rows[0] == ("17850", "85123A", None, 1291191960.0)
    options = ("--interactions", lines, "--mapping", "transactions", "--max-quarantine-share", 0.6)
    summary = run_catalog(spark, tmp_path / "w", "--items", lines, *options)
    assert summary.num_rejected == {"cancelled": 2, "bad_quantity": 1}
    catalog = {
        row["item_id"]: (row["title"], row["price"]) for row in read_rows(tmp_path / "w", "catalog")
    }
    assert catalog == {
        "71053": ("LANTERN, WHITE", 3.39),
        "85123A": ("WHITE HEART HOLDER NEW", 2.75),
        "B": ("Adjust", 11062.06),
    }
    summary = run_sequences(spark, tmp_path / "w", *options)
    assert summary.num_rejected == {"cancelled": 2, "bad_quantity": 1, "missing_user": 2}
    assert summary.rows_kept == 4


def test_transaction_lines_with_other_names_and_iso_times(spark, tmp_path):
    lines = write_lines(
        tmp_path / "retail.csv",
        [
            "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID",
            "489434,85048,LIGHTS,12,2009-12-01 07:45:00,6.95,13085.0",
            "c489435,85048,LIGHTS,12,2009-12-01 07:45:00,6.95,13085.0",
        ],
    )
    assert log_rows(spark, lines, "--mapping", "transactions") == [
        ("13085.0", "85048", None, 1259653500.0),
        "cancelled",
    ]
    assert item_texts(spark, lines, "--mapping", "transactions")["85048"]["price"] == 6.95


def test_files_without_a_header_have_the_columns_that_are_named(spark, tmp_path):
    log = write_lines(tmp_path / "u.data", ["196\t242\t3\t881250949", "186\t302\t3\t891717742"])
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(
        "[interactions]\nformat = 'csv'\ndelimiter = '\\t'\ntime_unit = 's'\n"
        + f"column_names = {json.dumps(['user_id', 'parent_asin', 'rating', 'timestamp'])}\n"
    )
    assert log_rows(spark, log, "--mapping", mapping) == [
        ("196", "242", 3.0, 881250949),
        ("186", "302", 3.0, 891717742),
    ]
