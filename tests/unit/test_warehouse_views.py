import datetime as dt
from itertools import pairwise

import duckdb
import pyarrow as pa
import pytest

from r2ec import schemas, sql_files
from r2ec.errors import UsageError
from r2ec.storage import Warehouse
from r2ec.warehouse_views import open_views, partition_fields, run_query, with_views
from tests.factories.warehouse import FIRST_DATE, RUNS, SECOND_DATE, make_warehouse


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    return make_warehouse(tmp_path_factory.mktemp("warehouse"))


@pytest.fixture(scope="module")
def views(warehouse):
    return open_views(warehouse)


def ask(views, query, **values):
    """Rows as tuples of a query text, or of one of the project's queries by its name."""
    is_text = " " in query
    file = sql_files.parse_sql("-q", "-q", query) if is_text else sql_files.find_sql(query)
    return [tuple(row.values()) for row in run_query(views, file, values).to_pylist()]


def test_only_published_runs_are_seen(views):
    seen = ask(views, "SELECT DISTINCT date, run_id FROM recommendations ORDER BY date")
    assert seen == [(dt.date.fromisoformat(day), run_id) for day, run_id in RUNS.items()]
    assert ask(views, "SELECT count(*) FROM recommendations WHERE user_id = 'eve'") == [(0,)]
    assert ask(views, "SELECT count(*) FROM v_recommendations") == [(15,)]


def test_a_second_run_takes_the_place_of_the_first(tmp_path):
    warehouse = make_warehouse(tmp_path)
    row = warehouse.read_table(schemas.RUNS, date=SECOND_DATE).to_pylist()[0]
    row["run_id"] = f"{SECOND_DATE}-ffffffffffff"
    flipped = pa.Table.from_pylist([row], schema=schemas.RUNS.schema)
    warehouse.write_parquet(flipped, "runs", f"date={SECOND_DATE}", "run.parquet")
    views = open_views(warehouse)
    seen = ask(views, f"SELECT DISTINCT user_id FROM recommendations WHERE date = '{SECOND_DATE}'")
    assert seen == [("eve",)]


def test_recommendations_come_with_titles_and_reasoning(views):
    rows = ask(views, "user_recommendations", date=SECOND_DATE, user_id="o'hara")
    assert [(row[0], row[1], row[4], row[5]) for row in rows] == [
        (1, "B0TEA", 14.0, 9.75),
        (2, "B0INK", 24.5, 9.5),
        (3, "B0PRINTER", 99.0, 9.25),
    ]
    assert rows[0][2].startswith("Solinova Loose Leaf Tea")
    assert rows[0][6].startswith("o'hara likes music")


def test_titles_are_those_of_the_catalog_the_run_was_scored_with(views):
    versions = ask(
        views, "SELECT DISTINCT date, catalog_version FROM v_recommendations ORDER BY date"
    )
    assert [version for _, version in versions] == ["2024-05-01", "2024-05-31"]
    assert ask(views, "SELECT count(*) FROM v_recommendations WHERE title IS NULL") == [(0,)]


def test_user_history_is_one_row_an_event_oldest_first(views):
    rows = ask(
        views,
        "SELECT position, item_id, rating, event_time FROM v_user_history "
        f"WHERE date = '{FIRST_DATE}' AND user_id = 'bob' ORDER BY position",
    )
    assert [row[:3] for row in rows] == [(1, "B0GUITAR", 4.0), (2, "B0KETTLE", 3.0)]
    assert all(one[3] < other[3] for one, other in pairwise(rows))


def test_an_empty_warehouse_has_empty_tables_of_the_right_types(tmp_path):
    views = open_views(Warehouse(str(tmp_path)))
    for table in schemas.TABLES.values():
        rows = views.sql(f"SELECT * FROM {table.name}").to_arrow_table()
        assert rows.num_rows == 0
        wanted = [*table.schema.names, *table.partition_by]
        assert rows.schema.names == wanted
    assert ask(views, "SELECT count(*) FROM v_recommendations") == [(0,)]
    assert ask(views, "SELECT count(*) FROM v_user_history") == [(0,)]


@pytest.mark.parametrize(
    "attempt",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '{root}/runs/date=2024-05-31/run.parquet'",
        "COPY runs TO '{root}/stolen.csv'",
        "EXPLAIN ANALYZE COPY runs TO '{root}/stolen.csv'",
        "SET enable_external_access = true",
        "ATTACH '{root}/other.db'",
        "INSTALL httpfs",
        "DROP VIEW v_recommendations",
        "CREATE TABLE mine AS SELECT 1",
        "SELECT 1; SELECT 2",
        "SELECT * FROM warehouse",
        "",
    ],
)
def test_a_query_reads_the_tables_and_nothing_else(warehouse, attempt):
    views = open_views(warehouse)
    before = sorted(warehouse.list_files(suffix=""))
    text = attempt.format(root=warehouse.path())
    with pytest.raises(UsageError):
        run_query(views, sql_files.parse_sql("-q", "-q", text), {})
    assert sorted(warehouse.list_files(suffix="")) == before


def test_a_parameter_is_a_value_and_never_sql(views):
    rows = ask(views, "user_recommendations", date=SECOND_DATE, user_id="x' OR '1'='1")
    assert rows == []


def test_filters_reach_the_files(warehouse, views):
    plan = views.sql(
        f"EXPLAIN SELECT item_id FROM recommendations WHERE date = DATE '{SECOND_DATE}' "
        "AND user_id = 'ann'"
    ).fetchall()[0][1]
    assert "Filters" in plan
    assert "date" in plan
    assert "user_id" in plan


class ListedWarehouse(Warehouse):
    """Tells in `LISTED` which folders were listed for their files."""

    def list_files(self, *parts, suffix=".parquet"):
        LISTED.append("/".join(parts))
        return super().list_files(*parts, suffix=suffix)


LISTED = []


@pytest.mark.parametrize(
    ("query", "folders"),
    [
        ("SELECT 1", []),
        ("SELECT * FROM runs", []),
        ("SELECT * FROM reasoning", [("reasoning", day) for day in RUNS]),
        (
            f"SELECT * FROM recommendations WHERE date = '{FIRST_DATE}' AND rank = 1",
            [("recommendations", FIRST_DATE)],
        ),
        (
            f"SELECT * FROM recommendations WHERE date IN ('{FIRST_DATE}', '2020-01-01') OR false",
            [("recommendations", FIRST_DATE)],
        ),
        ("SELECT * FROM reasoning WHERE date < '2020-01-01'", []),
        ("SELECT * FROM catalog WHERE version = '2024-05-01'", [("catalog", "2024-05-01")]),
    ],
    ids=str,
)
def test_only_partitions_that_a_query_asks_for_are_listed(warehouse, query, folders):
    with open_views(ListedWarehouse(warehouse.root)) as views:
        LISTED.clear()
        ask(views, query)
    listed = {path for path in LISTED if not path.startswith("runs")}
    found = {(path.split("/")[0], path.split("=")[1].split("/")[0]) for path in listed}
    assert found == set(folders)


def test_a_date_published_anew_between_opening_and_asking_is_read_again(tmp_path):
    warehouse = make_warehouse(tmp_path)
    asked = sql_files.parse_sql("-q", "-q", "SELECT DISTINCT user_id, run_id FROM recommendations")
    new, seen = f"{SECOND_DATE}-ffffffffffff", []

    def ask_late(views):
        if not seen:
            row = warehouse.read_table(schemas.RUNS, date=SECOND_DATE).to_pylist()[0]
            rows = pa.Table.from_pylist([row | {"run_id": new}], schema=schemas.RUNS.schema)
            warehouse.write_parquet(rows, "runs", f"date={SECOND_DATE}", "run.parquet")
            warehouse.remove_dir(
                "recommendations", f"date={SECOND_DATE}", f"run_id={RUNS[SECOND_DATE]}"
            )
        seen.append(True)
        return run_query(views, asked, {})

    rows = with_views(warehouse, ask_late).to_pylist()
    assert len(seen) == 2
    assert {row["run_id"] for row in rows} == {RUNS[FIRST_DATE], new}


DUCKDB_TYPES = {
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.float64(): "DOUBLE",
    pa.float32(): "FLOAT",
    pa.string(): "VARCHAR",
    pa.date32(): "DATE",
    schemas.TIMESTAMP: "TIMESTAMP WITH TIME ZONE",
}


def duckdb_type(kind):
    if pa.types.is_list(kind):
        return f"{duckdb_type(kind.value_type)}[]"
    return DUCKDB_TYPES[kind]


@pytest.mark.parametrize("table", schemas.TABLES.values(), ids=lambda table: table.name)
def test_duckdb_schema_files_say_what_schemas_py_says(table):
    connection = duckdb.connect(":memory:")
    file = sql_files.sql_folder() / "schema" / "duckdb" / f"{table.name}.sql"
    connection.execute(file.read_text(encoding="utf-8"))
    found = connection.execute(f"DESCRIBE {table.name}").fetchall()
    wanted = [
        (field.name, duckdb_type(field.type), "YES" if field.nullable else "NO")
        for field in [*table.schema, *partition_fields(table)]
    ]
    assert [row[:3] for row in found] == wanted
