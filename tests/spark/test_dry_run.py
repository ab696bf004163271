"""`--dry-run` and `--explain`: what they say, and that they change nothing."""

import sys
from pathlib import Path

import pytest

from r2ec.errors import NotReadyError
from r2ec.etl import catalog_job, entry, sequences_job
from r2ec.etl.arguments import parse_catalog_job, parse_sequences_job
from r2ec.etl.explain import executed_plans
from r2ec.etl.job_plans import plan_catalog, plan_sequences
from r2ec.etl.plan import SHOWN_FILES
from r2ec.etl.summary import run_id
from tests.factories.jobs import build_shop
from tests.factories.logs import make_log, make_shop, write_csv

pytestmark = pytest.mark.spark

DAY = "2017-08-22"


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    """A folder with log, metadata and the tables built from them."""
    folder = tmp_path_factory.mktemp("shop")
    build_shop(spark, folder, make_log(seed=3, events=200), "--date", DAY)
    return folder


def everything(folder: Path) -> dict[str, int]:
    """Every file, hidden ones too, with the time it was last written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def sequences_plan(spark, folder, *options):
    where = ["--warehouse", str(folder / "warehouse"), "--interactions", str(folder / "log.csv.gz")]
    return plan_sequences(spark, parse_sequences_job([*where, "--dry-run", *options])).text()


def catalog_plan(spark, folder, *options, warehouse="warehouse"):
    where = ["--warehouse", str(folder / warehouse), "--items", str(folder / "meta.jsonl.gz")]
    log = ["--interactions", str(folder / "log.csv.gz")]
    return plan_catalog(spark, parse_catalog_job([*where, *log, *options])).text()


def test_a_dry_run_names_files_columns_and_partitions(spark, shop):
    text = sequences_plan(spark, shop, "--date", DAY, "--date", "2017-08-23")
    log = shop / "log.csv.gz"
    assert f"reads --interactions: 1 files, {log.stat().st_size:,} bytes (csv 1)\n" in text
    assert "  columns: user = user_id, item = parent_asin, rating = rating, time = time" in text
    assert "csv.gz, csv, " in text
    there = list((shop / "warehouse" / "histories" / f"date={DAY}").glob("*.parquet"))
    num_bytes = sum(file.stat().st_size for file in there)
    replaced = f"replaces {len(there)} files, {num_bytes:,} bytes"
    assert f"  histories/date={DAY}: {replaced}\n" in text
    assert "  histories/date=2017-08-23: new\n" in text
    assert "  quarantine/job=build_sequences/date=2017-08-23: " in text
    assert "catalog version: 2017-08-" in text
    last = text.splitlines()[-1]
    assert last.startswith("build_sequences dry run: files in 1, bytes in ")
    assert last.endswith("partitions 6, replaced 4; nothing was written")


def test_a_dry_run_says_what_only_the_log_can_tell(spark, shop):
    assert "  histories/date=…: the day of the log's last event" in sequences_plan(spark, shop)
    assert "  catalog/version=…: the day of the log's last event" in catalog_plan(spark, shop)


def test_a_dry_run_of_the_catalog_names_the_version_that_goes_on(spark, shop):
    text = catalog_plan(spark, shop, "--version", "2030-01-01", "--store-column", "store")
    assert "reads --items: 1 files, " in text
    assert "reads --interactions: 1 files, " in text
    assert "  catalog/version=2030-01-01: new\n" in text
    assert "indices go on from: 2017-08-" in text
    text = catalog_plan(spark, shop, "--version", "2030-01-01", warehouse="none")
    assert "indices go on from: none" in text
    assert not (shop / "none").exists()


def test_a_dry_run_writes_nothing(spark, shop):
    before = everything(shop)
    sequences_plan(spark, shop, "--date", DAY)
    catalog_plan(spark, shop, "--version", "2030-01-01")
    assert everything(shop) == before


def test_a_dry_run_fails_as_the_job_would(spark, shop):
    with pytest.raises(NotReadyError, match="no catalog version 2001-01-01"):
        sequences_plan(spark, shop, "--catalog-version", "2001-01-01")


def test_an_incremental_dry_run_names_the_files_it_would_read(spark, shop, tmp_path):
    first = write_csv(tmp_path / "log" / "1.csv", make_log(seed=3, events=200))
    make_shop(tmp_path, make_log(seed=3, events=200))
    warehouse = ["--warehouse", str(tmp_path / "warehouse")]
    log = ["--interactions", str(first.parent), "--date"]
    items = ["--items", str(tmp_path / "meta.jsonl.gz"), "--interactions", str(first)]
    catalog_job.run(spark, parse_catalog_job([*warehouse, *items]))
    sequences_job.run(spark, parse_sequences_job([*warehouse, *log, "2017-08-25"]))
    time = str(1_503_705_600_000 + 3_600_000)  # 2017-08-26 01:00
    write_csv(first.parent / "2.csv", [("U000", "B000", "5.0", time)])
    options = [*warehouse, *log, "2017-08-26", "--incremental"]
    text = plan_sequences(spark, parse_sequences_job(options)).text()
    assert "incremental: from the histories of 2017-08-25" in text
    assert "/2.csv, csv, " in text
    assert "/1.csv, csv, " not in text
    assert "sequences/split" not in text
    text = plan_sequences(spark, parse_sequences_job([*options, "--window", "3"])).text()
    assert "not incremental: the histories of 2017-08-25 were made with other options" in text
    assert "sequences/split=train: replaces" in text


def test_many_files_are_summed_up_and_odd_names_are_harmless(spark, shop, tmp_path):
    rows = make_log(events=2)
    for number in range(SHOWN_FILES + 3):
        header = ("user_id", "parent_asin", "rating\x1b[31m", "timestamp")
        write_csv(tmp_path / f"{number:02}.csv", rows, header)
    where = ["--warehouse", str(shop / "warehouse"), "--interactions", str(tmp_path)]
    text = plan_sequences(spark, parse_sequences_job(where)).text()
    assert "  and 3 more files\n" in text
    assert "rating = (none)" in text
    assert "\x1b" not in text


def test_explained_and_dry_runs_have_the_name_of_the_plain_one():
    argv = ["--interactions", "l", "--items", "m", "--warehouse", "w", "--version", "2024-01-01"]
    plain = run_id("job", parse_catalog_job(argv))
    assert run_id("job", parse_catalog_job([*argv, "--explain", "--dry-run"])) == plain
    argv = ["--interactions", "l", "--warehouse", "w"]
    plain = run_id("job", parse_sequences_job(argv))
    assert run_id("job", parse_sequences_job([*argv, "--explain", "--dry-run"])) == plain


def test_the_plans_of_what_was_run_are_those_at_the_end(spark):
    spark.range(1000).selectExpr("id % 7 AS seventh").groupBy("seventh").count().collect()
    (*_, last) = executed_plans(spark)
    assert "isFinalPlan=true" in last
    assert "HashAggregate" in last
    assert last.splitlines()[0].endswith(" s")


class KeptSession:
    """The session of the tests, which the end of a job must not stop."""

    def __init__(self, spark):
        self._spark = spark

    def __getattr__(self, name):
        return (lambda: None) if name == "stop" else getattr(self._spark, name)


@pytest.fixture
def main(spark, monkeypatch, capsys):
    """A function: arguments of the sequences job -> what its process prints."""
    monkeypatch.setattr(entry, "open_session", lambda name, with_metastore: KeptSession(spark))

    def call(*argv):
        monkeypatch.setattr(sys, "argv", ["build_sequences.py", *argv])
        entry.main(parse_sequences_job, sequences_job.run, plan_sequences)
        return capsys.readouterr().out

    return call


def test_the_border_prints_the_plan_or_the_plans_and_then_the_figures(main, shop, tmp_path):
    log = ["--interactions", str(shop / "log.csv.gz"), "--date", DAY]
    where = ["--warehouse", str(shop / "warehouse"), *log]
    printed = main(*where, "--dry-run")
    assert printed.splitlines()[-1].endswith("nothing was written")
    assert "Scan" not in printed
    assert "== Physical Plan ==" in main(*where, "--dry-run", "--explain")
    printed = main(*where, "--explain")
    assert "InsertIntoHadoopFsRelation" in printed or "MapInArrow" in printed
    assert printed.splitlines()[-1].startswith("build_sequences histories ")
    assert "AdaptiveSparkPlan" not in main(*where)
