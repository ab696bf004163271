import pytest

from r2ec import sql_files
from r2ec.warehouse_views import open_views, run_query
from tests.factories.query_cases import CASES, rounded
from tests.factories.query_warehouse import make_query_warehouse

QUERIES = sql_files.read_folder("queries")


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    return open_views(make_query_warehouse(tmp_path_factory.mktemp("warehouse")))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_duckdb_gives_the_rows_counted_by_hand(views, case):
    rows = run_query(views, sql_files.find_sql(case.query), case.values)
    found = (tuple(row.values()) for row in rows.to_pylist())
    assert rounded(found) == rounded(case.rows)


def test_there_are_at_least_twelve_queries_each_with_a_case_that_finds_rows():
    assert len(QUERIES) >= 12
    assert {file.name for file in QUERIES} == {case.query for case in CASES if case.rows}


@pytest.mark.parametrize("file", QUERIES, ids=lambda file: file.name)
def test_a_query_says_what_it_answers_and_in_which_order(file):
    words = [line for line in file.text.splitlines() if line.startswith("-- ")]
    assert any("?" in line for line in words)
    assert file.grain == "one row" or "\nORDER BY " in file.text
