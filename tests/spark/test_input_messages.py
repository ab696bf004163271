"""What is said of a log that cannot be meant: the value, the file, the remedy."""

import json

import pytest

from r2ec.errors import NotReadyError, R2ecError, UsageError
from r2ec.etl.arguments import parse_sequences_job
from r2ec.etl.interactions import find_interactions
from tests.factories.jobs import read_rows, run_catalog, run_sequences
from tests.factories.logs import make_log, make_shop, write_csv, write_lines

pytestmark = pytest.mark.spark

EVENT = {"user_id": "U1", "parent_asin": "B1", "rating": 5.0, "timestamp": 1}
CSV = ["user_id,parent_asin,rating,timestamp", "U1,B1,5,1600000000000"]


@pytest.mark.parametrize(
    ("name", "lines", "options", "message"),
    [
        ("a.json", [json.dumps([EVENT])], "", r"a\.json.* begins with '\[.*one object a line"),
        ("a.json", json.dumps([EVENT], indent=1).split("\n"), "", "give one object a line"),
        ("a.json", [repr(EVENT)], "", "--interactions-format pydict"),
        ("t10:00.csv", CSV, "", r"t10:00\.csv: .* colon in its name; rename it"),
        ("a.csv", ["", *CSV], "", r"a\.csv: the first line is blank"),
        ("a.csv", CSV, "--time-unit iso --time-format %m/%d/%Y", "'%m/%d/%Y' is no pattern"),
        ("a.csv", CSV, "--time-unit iso --time-format QYYYY", "'QYYYY' is no pattern"),
        ("a.csv", CSV, "--mapping transactions", "'StockCode', nor stock_code, ProductCode"),
        ("a.csv", CSV, "--user-column shopper", r"no column 'shopper' \(it has: user_id, "),
    ],
)
def test_what_cannot_be_read_is_named_before_a_row_is(
    spark, tmp_path, name, lines, options, message
):
    log = write_lines(tmp_path / name, lines)
    argv = ["--interactions", str(log), "--warehouse", "w", *options.split()]
    with pytest.raises(UsageError, match=message):
        find_interactions(spark, parse_sequences_job(argv).interactions)


def test_an_empty_file_is_no_wrong_one(spark, tmp_path):
    log = write_lines(tmp_path / "a.jsonl", [""])
    job = parse_sequences_job(["--interactions", str(log), "--warehouse", "w"])
    with pytest.raises(NotReadyError, match="the log is empty"):
        find_interactions(spark, job.interactions)


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        ("--keep-column rating --keep-values 77", 3, "no row with 77 in rating"),
        (
            "--max-user-events-per-day 1 --since 2020-01-01 --max-quarantine-share 1",
            3,
            r"no event .* is left .*robot \d+",
        ),
    ],
)
def test_why_nothing_is_left_is_told(spark, tmp_path, options, exit_code, message):
    busy = [("U1", "B1", "5.0", str(1_600_000_000_000 + second)) for second in range(3)]
    log, items = make_shop(tmp_path, [("U1", "B1", "5.0", "1500000000000"), *busy])
    run_catalog(spark, tmp_path / "w", "--items", items, "--version", "2021-01-01")
    with pytest.raises(R2ecError, match=message) as told:
        run_sequences(spark, tmp_path / "w", "--interactions", log, *options.split())
    assert told.value.exit_code == exit_code


def test_the_catalog_tells_of_rows_of_the_log_that_are_no_events(spark, tmp_path):
    _, items = make_shop(tmp_path, make_log(events=10))
    where = ("--items", items, "--version", "2024-01-01", "--interactions")
    some = [("U1", "B1", "5.0", "1600000000000"), ("U1", "B1", "5.0", "1600000000")]
    log = write_csv(tmp_path / "some.csv", some)
    summary = run_catalog(spark, tmp_path / "w", *where, log)
    assert "events of the log 1, rejected ones 1 (time_in_seconds 1)" in summary.line()
    # With the wrong unit the catalog would be built as if there were no log.
    with pytest.raises(
        R2ecError, match=r"none of the 1 rows .*time_in_seconds 1.*--time-unit s"
    ) as told:
        run_catalog(spark, tmp_path / "other", *where, write_csv(tmp_path / "log.csv", some[1:]))
    assert told.value.exit_code == 4
    assert not read_rows(tmp_path / "other", "catalog")
