from copy import deepcopy
from datetime import UTC, date, datetime

import duckdb
import pyarrow as pa
import pytest

from r2ec import schemas, sql_files
from r2ec.errors import GateError
from r2ec.etl.audits import run_audits

pytestmark = pytest.mark.spark

OWN = {"catalog": "version", "sequences": "split", "histories": "date"}
AUDITS = {a.name: a for a in sql_files.read_folder("audits") if set(a.reads) <= set(OWN)}


def moment(day, hour=0):
    return datetime(2024, 1, day, hour, tzinfo=UTC)


def item(version, index, item_id):
    return {
        "version": date(2024, 1, version),
        "item_index": index,
        "item_id": item_id,
        "text_hash": "h",
    }


def past(*items):
    """History columns: (item_index, day) oldest first."""
    return {
        "history_item_index": [index for index, _ in items],
        "history_rating": [5.0 for _ in items],
        "history_time": [moment(day) for _, day in items],
    }


def sequence(number, split, target_day, *items):
    target = {"target_item_index": 0, "target_rating": 4.0, "target_time": moment(target_day)}
    return {"sequence_id": number, "user_id": "U", "split": split, **past(*items), **target}


GOOD = {
    "catalog": [*[item(1, n, f"B{n}") for n in range(2)], *[item(2, n, f"B{n}") for n in range(3)]],
    "sequences": [
        sequence(1, "train", 2, (0, 1)),
        sequence(2, "train", 2, (0, 1), (1, 2)),
        sequence(3, "valid", 3, (1, 2)),
        sequence(4, "test", 4, (2, 4)),
    ],
    "histories": [
        {"user_id": user, "date": date(2024, 1, 4), "history_hash": "h", **past((0, 1), (2, 4))}
        for user in ("U", "V")
    ],
}
# Audit -> what makes it fail: table, row, and the columns that are changed there.
FAULTS = {
    "history_before_target": ("sequences", 3, past((2, 3), (2, 5))),
    "splits_share_no_time": ("sequences", 2, {"target_time": moment(2), **past((1, 1))}),
    "sequence_ids_unique": ("sequences", 1, {"sequence_id": 1}),
    "sequences_items_known": ("sequences", 0, past((7, 1))),
    "item_index_dense": ("catalog", 4, {"item_index": 3}),
    "item_index_stable": ("catalog", 0, {"item_id": "B1"}),
    "histories_items_known": ("histories", 0, past((-1, 1))),
    "histories_within_date": ("histories", 1, past((0, 5))),
}
MORE_FAULTS = [
    ("history_before_target", "sequences", 3, {"target_item_index": 2, "target_rating": 5.0}),
    # Only in the middle out of order: the last event alone would not tell.
    ("history_before_target", "sequences", 3, past((1, 2), (0, 1), (2, 3))),
    ("history_before_target", "sequences", 0, past()),
    ("history_before_target", "sequences", 0, {"history_rating": [1.0, 2.0]}),
    ("history_before_target", "sequences", 0, {"history_item_index": [0, 1]}),
    ("history_before_target", "sequences", 0, {"history_time": [moment(1), moment(1)]}),
    ("sequences_items_known", "sequences", 0, {"target_item_index": 3}),
    ("item_index_dense", "catalog", 4, {"item_index": 1}),
    # Both versions are dense, and no item has two indices: an index has two items.
    ("item_index_stable", "catalog", 1, {"item_id": "B9"}),
    ("histories_within_date", "histories", 1, {"user_id": "U"}),
    ("histories_within_date", "histories", 1, past((2, 4), (0, 1))),
    ("histories_within_date", "histories", 1, {"history_rating": [5.0]}),
    ("histories_within_date", "histories", 1, past()),
]
CASES = [*((name, *fault) for name, fault in FAULTS.items()), *MORE_FAULTS]


def tables(rows):
    kinds = {"version": pa.date32(), "date": pa.date32(), "split": pa.string()}
    found = {}
    for name, column in OWN.items():
        fields = [*schemas.TABLES[name].schema, pa.field(column, kinds[column])]
        schema = pa.schema([field.with_nullable(True) for field in fields])
        found[name] = pa.Table.from_pylist(rows[name], schema)
    return found


def run_in_spark(spark, rows):
    frames = {name: spark.createDataFrame(table) for name, table in tables(rows).items()}
    return run_audits(spark, frames, OWN)


def failing_in_duckdb(rows):
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for file in sql_files.read_folder("duckdb"):
            connection.execute(file.text)
        for name, table in tables(rows).items():
            connection.register(name, table)
        results = {
            name: connection.sql(audit.text).to_arrow_table() for name, audit in AUDITS.items()
        }
    return {name for name, rows in results.items() if rows.num_rows}


def test_every_audit_has_a_fault_that_it_finds():
    assert set(FAULTS) == set(AUDITS)
    for audit in AUDITS.values():
        assert audit.grain
        assert not audit.params


def test_good_tables_pass_every_audit(spark):
    assert run_in_spark(spark, GOOD) == len(AUDITS)
    assert failing_in_duckdb(GOOD) == set()


def test_under_strict_time_no_history_has_an_event_at_its_targets_time(spark):
    rows = deepcopy(GOOD)
    for row in rows["sequences"]:
        row["target_time"] = row["target_time"].replace(hour=1)
    frames = {name: spark.createDataFrame(table) for name, table in tables(rows).items()}
    assert run_audits(spark, frames, OWN, strict_time=True) == len(AUDITS) + 1
    frames = {name: spark.createDataFrame(table) for name, table in tables(GOOD).items()}
    with pytest.raises(GateError, match="audit failed: history_before_target_time"):
        run_audits(spark, frames, OWN, strict_time=True)


@pytest.mark.parametrize(("name", "table", "row", "change"), CASES)
def test_an_audit_finds_its_fault_in_both_engines(spark, name, table, row, change):
    rows = deepcopy(GOOD)
    rows[table][row] |= change
    with pytest.raises(
        GateError, match=rf"audit failed: .*{name}.*nothing was published"
    ) as caught:
        run_in_spark(spark, rows)
    assert caught.value.exit_code == 4
    assert "{" in str(caught.value)
    assert name in failing_in_duckdb(rows)
