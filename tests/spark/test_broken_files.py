"""Files that cannot be read, among good ones: an error that names them, or a row of quarantine."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2ec.errors import R2ecError, UsageError
from r2ec.etl.entry import _cause
from r2ec.etl.inputs import InteractionInput
from r2ec.etl.interactions import find_interactions, read_interactions
from r2ec.etl.rows import source_of
from tests.factories.jobs import read_rows, run_catalog, run_sequences
from tests.factories.logs import HEADER, make_log, make_shop, write_csv, write_jsonl

pytestmark = pytest.mark.spark


def read(spark, path, **settings):
    log = InteractionInput(paths=(str(path),), **settings)
    files = find_interactions(spark, log)
    rows = read_interactions(spark, files, log)
    sourced = rows.withColumn("source", source_of(files, rows["place"]))
    return sourced.orderBy("place").collect()


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.fixture
def mixed(tmp_path):
    """A good file of each kind, and broken ones in four ways; returns (folder, good rows)."""
    log = make_log(events=900)
    folder = tmp_path / "log"
    write_csv(folder / "a.csv.gz", log[:300])
    cut_short(write_csv(folder / "b.csv.gz", log[:300]))
    write_csv(folder / "c.csv", log[:300]).rename(folder / "c.csv.gz")
    objects = [dict(zip(HEADER, row, strict=True)) for row in log]
    write_jsonl(folder / "d.jsonl", objects[300:600])
    columns = {name: [row[name] for row in objects[600:]] for name in HEADER}
    pq.write_table(pa.table(columns), folder / "e.parquet")
    pq.write_table(pa.table(columns), folder / "f.parquet")
    cut_short(folder / "f.parquet")
    damaged = bytearray((folder / "e.parquet").read_bytes())
    damaged[4:400] = bytes(396)
    (folder / "g.parquet").write_bytes(damaged)
    (folder / "h.csv").write_bytes(b"")
    return folder, log


def test_broken_files_may_be_skipped_and_are_told(spark, mixed):
    folder, log = mixed
    rows = read(spark, folder, skip_broken_files=True)
    good = [row for row in rows if row["reason"] is None]
    assert [(row["user_id"], row["item_id"]) for row in good] == [row[:2] for row in log]
    broken = [row for row in rows if row["reason"] is not None]
    assert {row["reason"] for row in broken} == {"broken_file"}
    names = [row["source"].rsplit("/", 1)[-1] for row in broken]
    assert names == ["b.csv.gz", "c.csv.gz", "f.parquet", "g.parquet"]
    assert all("cannot be read: " in row["line"] for row in broken)


@pytest.mark.parametrize("name", ["b.csv.gz", "c.csv.gz", "f.parquet", "g.parquet"])
def test_else_the_broken_file_is_named(spark, mixed, name):
    folder, _ = mixed
    for path in folder.iterdir():
        if path.name not in (name, "a.csv.gz"):
            path.unlink()
    with pytest.raises(Exception) as raised:
        read(spark, folder)
    told = str(raised.value) if isinstance(raised.value, R2ecError) else _cause(raised.value)
    assert name in told
    assert "cannot be read" in told


def test_the_jobs_put_a_skipped_file_to_quarantine(spark, tmp_path):
    rows = make_log(events=300)
    log, items = make_shop(tmp_path / "shop", rows)
    folder = tmp_path / "days"
    folder.mkdir()
    log.rename(folder / "1.csv.gz")
    cut_short(write_csv(folder / "2.csv.gz", rows))
    (tmp_path / "meta").mkdir()
    items.rename(tmp_path / "meta" / "1.jsonl.gz")
    (tmp_path / "meta" / "2.jsonl.gz").write_bytes(gzip.compress(b'{"parent_asin": "X"}')[:-9])
    options = ("--interactions", folder, "--skip-broken-files")
    summary = run_catalog(spark, tmp_path / "w", "--items", tmp_path / "meta", *options)
    assert summary.num_rejected == {"broken_file": 1}
    summary = run_sequences(spark, tmp_path / "w", *options)
    assert summary.num_rejected == {"broken_file": 1}
    (row,) = read_rows(tmp_path / "w", "quarantine", "job=build_sequences")
    assert row["source"].endswith("/days/2.csv.gz")


def test_a_file_in_utf_16_is_told_by_its_header(spark, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(",".join(HEADER).encode("utf-16-le") + "\nU,B,5,1000\n".encode("utf-16-le"))
    with pytest.raises(UsageError, match="UTF-16"):
        read(spark, path)
