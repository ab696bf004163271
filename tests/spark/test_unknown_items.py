import pytest

from tests.factories.jobs import contents, run_catalog, run_sequences
from tests.factories.logs import make_items, make_log, write_csv, write_jsonl

pytestmark = pytest.mark.spark


def test_events_of_unknown_items_are_rejected_or_only_counted(spark, tmp_path):
    rows = make_log(seed=8, events=300)
    log = write_csv(tmp_path / "log.csv", rows)
    metadata = make_items(rows)
    items = write_jsonl(tmp_path / "meta.jsonl", metadata[1:])
    run_catalog(spark, tmp_path / "w", "--items", items, "--interactions", log)
    options = ("--interactions", log, "--max-quarantine-share", 1)
    rejected = run_sequences(spark, tmp_path / "w", *options)
    before = contents(tmp_path / "w")
    dropped = run_sequences(spark, tmp_path / "w", *options[:2], "--unknown-items", "drop")
    after = contents(tmp_path / "w")
    num_unknown = sum(row[1] == metadata[0]["parent_asin"] for row in rows)
    assert rejected.num_rejected == {"unknown_item": num_unknown}
    assert dropped.num_rejected == {}
    assert dropped.num_filtered["of items that the catalog lacks"] == num_unknown
    assert dropped.rows_in == rejected.rows_in == len(rows)
    tables = {place: found for place, found in before.items() if "quarantine" not in place}
    assert len(before) == len(after) + 1
    assert after == tables
