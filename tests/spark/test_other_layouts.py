"""Logs as public sources have them: other separators, encodings and packings, fields in fields."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2ec.errors import UsageError
from r2ec.etl.arguments import parse_catalog_job, parse_sequences_job
from r2ec.etl.catalog import merge_items, read_items
from r2ec.etl.catalog_job import find_items
from r2ec.etl.interactions import find_interactions, read_interactions
from tests.factories.logs import HEADER, make_log, write_csv, write_lines

pytestmark = pytest.mark.spark

LOG = make_log(seed=5, events=40)


def log_rows(spark, path, *options):
    """The events of a log by place, and the reasons of the rejected rows."""
    argv = ["--interactions", str(path), "--warehouse", "w", *options]
    log = parse_sequences_job(argv).interactions
    rows = read_interactions(spark, find_interactions(spark, log), log).orderBy("place").collect()
    return [
        row["reason"] or (row["user_id"], row["item_id"], row["rating"], row["time"])
        for row in rows
    ]


def item_values(spark, path, *options):
    """The raw metadata by item."""
    argv = ["--items", str(path), "--warehouse", "w", "--version", "2024-01-31", *options]
    items = parse_catalog_job(argv).items
    rows = merge_items(read_items(spark, find_items(spark, items), items)).collect()
    return {row["item_id"]: row for row in rows}


def expected(log):
    return [(user, item, float(rating), int(time) * 1000) for user, item, rating, time in log]


def pack(path, codec, lines):
    with pa.CompressedOutputStream(str(path), codec) as stream:
        stream.write("".join(f"{line}\n" for line in lines).encode())
    return path


def test_movielens_1m(spark, tmp_path):
    ratings = write_lines(tmp_path / "ratings.dat", ["1::1193::5::978300760", "1::9::3::978302109"])
    movies = tmp_path / "movies.dat"
    movies.write_bytes('9::"Misérables": Les, 1995::Drama|Musical\n'.encode("latin-1"))
    assert log_rows(spark, ratings, "--mapping", "movielens1m") == [
        ("1", "1193", 5.0, 978_300_760_000_000),
        ("1", "9", 3.0, 978_302_109_000_000),
    ]
    film = item_values(spark, movies, "--mapping", "movielens1m")["9"]
    assert (film["title"], film["categories"]) == ('"Misérables": Les, 1995', "Drama|Musical")


def test_separators_of_several_marks_have_headers_and_quotes_too(spark, tmp_path):
    rows = [HEADER, ("U1", '"B::1"', "5", "1600000000000"), ("U1", "B2", "5")]
    log = write_lines(tmp_path / "log.csv", ["::".join(row) for row in rows])
    found = log_rows(spark, log, "--delimiter", "::")
    assert found == [("U1", "B::1", 5.0, 1_600_000_000_000_000), "broken_row"]


def test_zstandard_is_read_where_hadoop_has_no_library_for_it(spark, tmp_path):
    lines = [",".join(row) for row in [HEADER, *LOG]]
    objects = [json.dumps(dict(zip(HEADER, row, strict=True))) for row in LOG]
    assert log_rows(spark, pack(tmp_path / "log.csv.zst", "zstd", lines)) == expected(LOG)
    assert log_rows(spark, pack(tmp_path / "log.jsonl.zst", "zstd", objects)) == expected(LOG)


@pytest.mark.parametrize("options", [(), ("--column-names", "a,b,c,d")])
def test_a_packing_that_would_be_read_as_empty_is_refused(spark, tmp_path, options):
    pack(tmp_path / "b.csv.lz4", "lz4", [",".join(row) for row in [HEADER, *LOG]])
    write_csv(tmp_path / "a.csv", LOG)
    with pytest.raises(UsageError, match=r"b\.csv\.lz4: written by the lz4 program"):
        log_rows(spark, tmp_path, *options)


def test_quotes_are_text_where_nothing_is_quoted(spark, tmp_path):
    names = ['"Heroes"', '12" Mix', '"Open', "plain"]
    lines = [f'U1\t{name}\tTrack "{n}\t{1_600_000_000 + n}' for n, name in enumerate(names)]
    log = write_lines(tmp_path / "log.tsv", lines)
    columns = ("--column-names", "user_id,parent_asin,name,timestamp", "--time-unit", "s")
    assert "broken_row" in log_rows(spark, log, *columns)
    found = log_rows(spark, log, *columns, "--quote", "none")
    assert [row[1] for row in found] == names


def test_another_mark_may_quote(spark, tmp_path):
    lines = [",".join(HEADER), "'U,1','it''s',5,1600000000000", 'U2,5",5,1600000000000']
    found = log_rows(spark, write_lines(tmp_path / "log.csv", lines), "--quote", "'")
    assert [row[:2] for row in found] == [("U,1", "it's"), ("U2", '5"')]


@pytest.mark.parametrize("options", [(), ("--multi-line",)])
def test_other_encodings_are_read_and_what_is_none_of_theirs_is_rejected(spark, tmp_path, options):
    header = "user_id,Größe €,rating,timestamp\n".encode("cp1252")
    rows = "Žofie,“blå”,5,1600000000000\n".encode("cp1252") + b"U\x81,B1,5,1600000000000\n"
    (tmp_path / "log.csv").write_bytes(header + rows)
    given = ("--encoding", "windows-1252", "--item-column", "Größe €", *options)
    found = log_rows(spark, tmp_path / "log.csv", *given)
    assert found == [("Žofie", "“blå”", 5.0, 1_600_000_000_000_000), "bad_encoding"]


def test_an_encoding_that_java_lacks_is_named(spark, tmp_path):
    log = write_csv(tmp_path / "log.csv", LOG)
    with pytest.raises(UsageError, match="encoding 'utf-7'"):
        log_rows(spark, log, "--encoding", "utf-7")


NESTED = ("--user-column", "user.id", "--item-column", "item.ids.sku", "--time-column", "at.ms")
EVENTS = [
    {
        "user": {"id": f"0{user}"},
        "item": {"ids": {"sku": item, "more": [1]}, "name": "x"},
        "rating": float(rating),
        "at": {"ms": int(time)},
    }
    for user, item, rating, time in LOG
]
NESTED_EVENTS = [(f"0{user}", *rest) for user, *rest in expected(LOG)]


def test_fields_within_fields_have_names_with_dots(spark, tmp_path):
    lines = write_lines(tmp_path / "log.jsonl", [json.dumps(event) for event in EVENTS])
    pydict = write_lines(tmp_path / "log.txt", [repr(event) for event in EVENTS])
    pq.write_table(pa.Table.from_pylist(EVENTS), tmp_path / "log.parquet")
    assert log_rows(spark, lines, *NESTED) == NESTED_EVENTS
    as_pydict = ("--interactions-format", "pydict")
    assert log_rows(spark, pydict, *NESTED, *as_pydict) == NESTED_EVENTS
    assert log_rows(spark, tmp_path / "log.parquet", *NESTED) == NESTED_EVENTS


def test_fields_within_the_columns_of_a_table_have_such_names_too(spark, tmp_path):
    pq.write_table(pa.Table.from_pylist(EVENTS), tmp_path / "log.parquet")
    spark.read.parquet(str(tmp_path / "log.parquet")).createOrReplaceTempView("nested_log")
    argv = ["--interactions-table", "nested_log", "--warehouse", "w", *NESTED]
    log = parse_sequences_job(argv).interactions
    rows = read_interactions(spark, find_interactions(spark, log), log).collect()
    found = [(row["user_id"], row["item_id"], row["rating"], row["time"]) for row in rows]
    assert sorted(found) == sorted(NESTED_EVENTS)


def test_a_column_whose_own_name_has_a_dot_is_that_column(spark, tmp_path):
    event = {"user.id": "U1", "user": {"id": "U2"}, "parent_asin": "B1", "timestamp": 1.6e12}
    log = write_lines(tmp_path / "log.jsonl", [json.dumps(event)])
    pq.write_table(pa.Table.from_pylist([event]), tmp_path / "log.parquet")
    for path in (log, tmp_path / "log.parquet"):
        assert log_rows(spark, path, "--user-column", "user.id")[0][0] == "U1"


def test_a_field_that_is_not_there_is_named_with_those_that_are(spark, tmp_path):
    log = write_lines(tmp_path / "log.jsonl", [json.dumps(event) for event in EVENTS])
    with pytest.raises(UsageError, match=r"no column 'user\.name' \(it has: .*user\.id"):
        log_rows(spark, log, *NESTED, "--user-column", "user.name")


def test_metadata_has_fields_within_fields(spark, tmp_path):
    item = {"parent_asin": "B1", "info": {"title": "Tea", "tags": ["a", "b"], "price": 2.5}}
    lines = write_lines(tmp_path / "items.jsonl", [json.dumps(item)])
    pq.write_table(pa.Table.from_pylist([item]), tmp_path / "items.parquet")
    named = ("--title-column", "info.title", "--categories-column", "info.tags")
    for path in (lines, tmp_path / "items.parquet"):
        found = item_values(spark, path, *named, "--price-column", "info.price")["B1"]
        assert (found["title"], found["categories"], found["price"]) == ("Tea", '["a","b"]', "2.5")
