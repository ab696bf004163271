import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ec import sql_files
from r2ec.errors import UsageError

HEAD = "-- grain: one row per user\n-- reads: runs, catalog\n-- params: date, k=10\n"


def parse(body, head=HEAD):
    return sql_files.parse_sql("q", "q.sql", head + body)


def test_head_declares_grain_tables_and_parameters():
    file = parse("SELECT 1")
    assert file.grain == "one row per user"
    assert file.reads == ("runs", "catalog")
    assert file.params == {"date": None, "k": "10"}


def test_parameters_are_not_found_in_strings_comments_and_casts():
    text = """SELECT ':no', "a:no", x::INT, /* :no */ :yes -- :no
    , 'it''s :no', :also, :yes"""
    assert sql_files.parameter_names(text) == ["yes", "also"]


def test_duckdb_gets_dollar_names_and_nothing_else_changes():
    text = "SELECT ':date', d::DATE, :date /* :date */ -- :date"
    assert sql_files.to_duckdb(text) == "SELECT ':date', d::DATE, $date /* :date */ -- :date"


@given(st.text(alphabet="ab:$'\"`-/* \n;1", max_size=40))
def test_text_in_a_string_is_never_touched(text):
    literal = "'" + text.replace("'", "''") + "'"
    assert sql_files.to_duckdb(f"SELECT {literal}") == f"SELECT {literal}"
    assert len(sql_files.statements(f"SELECT {literal}; SELECT 2")) == 2


def test_statements_end_at_semicolons_outside_strings_and_comments():
    text = "-- a; comment\nSELECT ';'; SELECT 2 /* ; */;\n-- the end\n"
    assert [part.strip() for part in sql_files.statements(text)] == [
        "-- a; comment\nSELECT ';'",
        "SELECT 2 /* ; */",
    ]


def test_default_values_stand_in_and_given_ones_win():
    file = parse("SELECT :date, :k")
    assert file.bind({"date": "2024-05-31"}) == {"date": "2024-05-31", "k": "10"}
    assert file.bind({"date": "2024-05-31", "k": "3"})["k"] == "3"


def test_missing_and_unknown_parameters_are_named():
    file = parse("SELECT :date, :k")
    with pytest.raises(UsageError, match="--param date="):
        file.bind({})
    with pytest.raises(UsageError, match=r"no parameter user_id; it has: date, k"):
        file.bind({"date": "2024-05-31", "user_id": "x"})


def test_a_query_is_found_by_its_name_or_path(tmp_path):
    assert sql_files.find_sql("user_recommendations").source.startswith("sql/queries/")
    mine = tmp_path / "mine.sql"
    mine.write_text("SELECT 1")
    assert sql_files.find_sql(str(mine)).text == "SELECT 1"
    with pytest.raises(UsageError, match=r"there are: .*catalog_coverage"):
        sql_files.find_sql("no_such_query")


@pytest.mark.parametrize("folder", ["queries", "audits", "views"])
def test_every_file_says_its_grain_what_it_reads_and_its_parameters(folder):
    files = sql_files.read_folder(folder)
    assert files
    for file in files:
        assert file.grain, file.source
        assert file.reads, file.source
        assert set(sql_files.parameter_names(file.text)) == set(file.params), file.source
        body = sql_files._without_comments(file.text)
        for table in file.reads:
            assert table in body, f"{file.source} declares {table} and does not read it"
