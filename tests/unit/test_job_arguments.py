from datetime import date
from pathlib import Path

import pytest

from r2ec.errors import NotReadyError, UsageError
from r2ec.etl.arguments import parse_catalog_job, parse_sequences_job
from r2ec.etl.inputs import InteractionInput, ItemInput
from r2ec.etl.mapping import READY as READY_NAMES
from r2ec.etl.mapping import load_mapping

READY = sorted(Path("configs/mappings").glob("*.toml"), key=str)
LOG = ["--interactions", "log.csv", "--warehouse", "w"]


def test_options_win_over_the_mapping_and_the_mapping_over_the_defaults():
    job = parse_sequences_job([*LOG, "--mapping", "movielens", "--time-unit", "us"])
    log = job.interactions
    assert (log.user_column, log.time_column, log.time_unit) == ("userId", "timestamp", "us")
    assert "rating" not in log.required()
    log = parse_sequences_job([*LOG, "--rating-column", "rating"]).interactions
    assert "rating" in log.required()


def test_a_mapping_asks_for_the_columns_whose_names_differ_from_the_defaults():
    items = ["--items", "m.csv"]
    job = parse_catalog_job([*LOG, *items, "--mapping", "movielens"])
    assert job.items.required() == {"item", "categories"}
    job = parse_catalog_job([*LOG, *items, "--mapping", "amazon2023"])
    assert job.items.required() == {"item"}


def test_items_take_the_id_column_of_the_log():
    job = parse_catalog_job([*LOG, "--items", "m.csv", "--item-column", "sku"])
    assert job.items.item_column == "sku"
    job = parse_catalog_job([*LOG, "--items", "m.csv", "--items-item-column", "id"])
    assert job.items.item_column == "id"


@pytest.mark.parametrize(
    ("given", "delimiter"), [(";", ";"), ("\\t", "\t"), ("::", "::"), ("\\x01", "\x01"), ("¦", "¦")]
)
def test_a_delimiter_is_a_character_an_escape_or_some_marks(given, delimiter):
    log = parse_sequences_job([*LOG, "--delimiter", given]).interactions
    assert log.delimiter == delimiter


def test_encodings_go_by_one_name_and_quotes_may_be_none():
    job = parse_catalog_job(
        [*LOG, "--items", "m.csv", "--items-encoding", "latin1", "--items-quote", "none"]
    )
    assert (job.items.encoding, job.items.quote) == ("iso8859-1", "")
    assert (job.interactions.encoding, job.interactions.quote) == ("utf-8", '"')
    log = parse_sequences_job([*LOG, "--encoding", "UTF-8-SIG"]).interactions
    assert log.encoding == "utf-8"


def test_dates_are_sorted_and_given_once():
    job = parse_sequences_job([*LOG, "--date=2024-02-01", "--date=2024-01-31", "--date=2024-02-01"])
    assert job.dates == (date(2024, 1, 31), date(2024, 2, 1))
    job = parse_sequences_job(
        [*LOG, "--since", "1970-01-02", "--until", "1970-01-01T00:00:02+00:00"]
    )
    assert (job.since, job.until) == (86_400_000_000, 2_000_000)


def test_the_warehouse_may_come_from_the_environment(monkeypatch):
    monkeypatch.delenv("R2EC_WAREHOUSE", raising=False)
    with pytest.raises(UsageError, match="--warehouse"):
        parse_sequences_job(LOG[:2])
    monkeypatch.setenv("R2EC_WAREHOUSE", "s3://bucket/w")
    assert parse_sequences_job(LOG[:2]).warehouse == "s3://bucket/w"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--date 2024-02-30", "--date '2024-02-30'"),
        ("--register a.b", "--register 'a.b': a database's name"),
        ("--window 0", "--window 0"),
        ("--min-user-events -1", "--min-user-events -1"),
        ("--split-ratio 0.8,0.2", "--split-ratio '0.8,0.2'"),
        ("--split-ratio 0.8,0.3,0.1", "sum to 1"),
        ("--max-quarantine-share 1.5", "--max-quarantine-share 1.5"),
        ("--since yesterday", "--since 'yesterday'"),
        ("--delimiter ab", "one character"),
        ("--quote ab", "quote 'ab': give one mark"),
        ("--quote none --multi-line", "--multi-line has no effect"),
        ("--encoding utf-16", "iconv -f utf-16 -t utf-8"),
        ("--encoding klingon", "encoding 'klingon': no such encoding"),
        ("--encoding rot13", "encoding 'rot13': no such encoding"),
        ("--catalog-version latest", "--catalog-version 'latest'"),
        ("--keep-column kind", "--keep-values"),
        ("--keep-values purchase", "--keep-column"),
        ("--time-format M/d/yyyy", "--time-unit iso"),
        ("--min-rating 5 --max-rating 1", "--min-rating 5 is above"),
        ("--max-time soon", "--max-time 'soon'"),
    ],
)
def test_a_wrong_value_is_named_with_its_option(options, message):
    with pytest.raises(UsageError, match=message):
        parse_sequences_job([*LOG, *options.split()])


def test_a_catalog_without_a_log_needs_a_version():
    with pytest.raises(UsageError, match="--version"):
        parse_catalog_job(["--items", "m.csv", "--warehouse", "w"])


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_every_ready_mapping_is_loaded_by_name_and_by_path(path):
    mapping = load_mapping(path.stem)
    assert mapping == load_mapping(str(path))
    InteractionInput(paths=("x",), **mapping["interactions"])
    ItemInput(paths=("x",), **mapping["items"])


def test_the_ready_mappings_are_found_and_named():
    assert tuple(path.stem for path in READY) == READY_NAMES


def test_of_several_names_a_mapping_asks_for_none():
    job = parse_catalog_job(["--items", "x.csv", *LOG, "--mapping", "transactions"])
    assert job.items.required() == {"item"}
    assert job.interactions.required() == {"user", "item", "time"}
    assert set(job.interactions.columns()) == {"user", "item", "rating", "time"} | {
        "quantity",
        "invoice",
    }


def test_a_table_stands_in_place_of_paths():
    job = parse_catalog_job(
        ["--items-table", "db.items", "--interactions-table", "db.events", "--warehouse", "w"]
    )
    assert (job.items.table, job.items.paths) == ("db.items", ())
    assert job.interactions.table == "db.events"
    with pytest.raises(SystemExit):
        parse_sequences_job([*LOG, "--interactions-table", "db.events"])
    with pytest.raises(SystemExit):
        parse_sequences_job(["--warehouse", "w"])
    table = ["--interactions-table", "db.events", "--warehouse", "w"]
    with pytest.raises(UsageError, match="--interactions-format is for files"):
        parse_sequences_job([*table, "--interactions-format", "csv"])
    assert parse_sequences_job([*table, "--mapping", "movielens"]).interactions.table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[log]\nuser_column = 'u'", r"unknown section \[log\]"),
        ("[interactions]\nuser = 'u'", "unknown setting 'user'"),
        ("[items]\ntitle_column = 3", "title_column = 3"),
        ("[interactions]\ntime_unit = 'h'", "time_unit = 'h'"),
        ("[interactions", "no valid TOML"),
        ("[interactions]\nmin_rating = '1'", "min_rating = '1' is not a number"),
        ("[interactions]\nkeep_values = 'purchase'", "not a list of texts"),
        ("[items]\nmulti_line = 'yes'", "multi_line = 'yes' is not true or false"),
        ("[interactions]\nuser_column = ['a', 3]", "not a text"),
        ("[items]\nkeep_column = 'x'", "unknown setting 'keep_column'"),
        ("interactions = 3", r"unknown section \[interactions\]"),
        ('[interactions]\nformat = "xml"', "'xml' is not a format; give one of auto, csv"),
    ],
)
def test_a_wrong_mapping_says_what_is_wrong_and_where(tmp_path, text, message):
    path = tmp_path / "mapping.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_mapping(str(path))


def test_a_mapping_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "latin.toml"
    path.write_bytes('[interactions]\nuser_column = "K\u00e4ufer"\n'.encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.toml: not UTF-8"):
        load_mapping(str(path))


def test_an_absent_mapping_is_not_ready():
    with pytest.raises(NotReadyError, match="amazon2023"):
        load_mapping("amazon1999")
