"""What a query may give, in each format: every type a value, every column a name of its own."""

import csv
import io
import json

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2ec.cli.main import run
from r2ec.cli.query_result import distinct_names, write_result
from tests.factories.warehouse import make_warehouse

FAR = "<value out of range: 2147483647>"  # as Arrow writes it
VALUES = {
    "1.5": (1.5, "1.5"),
    "4.9::FLOAT": (4.9, "4.9"),
    "1e-9::FLOAT": (1e-9, "1e-09"),
    "'nan'::FLOAT": (None, "nan"),
    "NULL::FLOAT": (None, ""),
    "sum(2::BIGINT)": (2, "2"),
    "12.50::DECIMAL(9, 2)": (12.5, "12.50"),
    "TIME '10:00:00'": ("10:00:00", "10:00:00"),
    "DATE '2024-05-31'": ("2024-05-31", "2024-05-31"),
    "'infinity'::DATE": (FAR, FAR),
    "NULL::DATE": (None, ""),
    "INTERVAL '1 month 3 days'": ("1 month 3 days", "1 month 3 days"),
    "INTERVAL '-90 minutes'": ("-01:30:00", "-01:30:00"),
    "TIMESTAMP '2024-06-02 12:00' - TIMESTAMP '2024-06-01'": (
        "1 day 12:00:00",
        "1 day 12:00:00",
    ),
    "INTERVAL '0 days'": ("00:00:00", "00:00:00"),
    "'\\xAA\\x01'::BLOB": ("aa01", "aa01"),
    "'nan'::DOUBLE": (None, "nan"),
    "'-inf'::DOUBLE": (None, "-inf"),
    "[1.5, NULL]": ([1.5, None], "[1.5, null]"),
    "{'a' : 1.5, 'b' : DATE '2024-05-31'}": (
        {"a": 1.5, "b": "2024-05-31"},
        '{"a": 1.5, "b": "2024-05-31"}',
    ),
    "MAP {'a' : 1}": ([["a", 1]], '[["a", 1]]'),
}


def written(query: str, output_format: str, capsys: pytest.CaptureFixture[str]) -> str:
    write_result(duckdb.sql(query).to_arrow_table(), output_format, None)
    return capsys.readouterr().out


def not_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("expression", list(VALUES))
def test_a_value_of_any_type_is_valid_json_and_the_same_in_csv(expression, capsys):
    query = f"SELECT {expression} AS value"
    in_json, in_csv = VALUES[expression]
    text = written(query, "json", capsys)
    assert json.loads(text, parse_constant=not_json) == [{"value": in_json}]
    assert list(csv.reader(io.StringIO(written(query, "csv", capsys)))) == [["value"], [in_csv]]


def test_a_table_for_people_reads_spans_bytes_and_structs_like_words(capsys):
    query = "SELECT INTERVAL '3 days' AS a, 'x'::BLOB AS b, {'k' : NULL, 'n' : 1.25::FLOAT} AS c"
    assert written(query, "table", capsys).split() == [
        *("a", "b", "c"),
        "─" * 28,
        *("3", "days", "78", "{k:", ",", "n:", "1.25}"),
    ]


def test_a_day_beyond_all_years_is_shown_and_those_beside_it_are_as_ever(capsys):
    query = "SELECT 'infinity'::DATE AS far, DATE '2024-05-31' AS near, NULL::TIMESTAMP AS none"
    shown = written(query, "table", capsys)
    assert FAR in " ".join(shown.split())
    assert "2024-05-31" in shown


def test_columns_of_one_name_keep_their_values_in_every_format(tmp_path, capsys):
    query = "SELECT 1 AS user_id, 2 AS user_id, 3 AS user_id_1, 4 AS user_id"
    names = ["user_id", "user_id_2", "user_id_1", "user_id_3"]
    assert json.loads(written(query, "json", capsys)) == [
        dict(zip(names, (1, 2, 3, 4), strict=True))
    ]
    assert written(query, "csv", capsys).splitlines() == [",".join(names), "1,2,3,4"]
    assert written(query, "table", capsys).split()[-4:] == ["1", "2", "3", "4"]
    file = tmp_path / "rows.parquet"
    write_result(duckdb.sql(query).to_arrow_table(), "parquet", str(file))
    assert pq.read_table(file).to_pylist() == [dict(zip(names, (1, 2, 3, 4), strict=True))]


def test_names_that_differ_stay_as_they_are():
    assert distinct_names(["a", "b", "A", "a_1"]) == ["a", "b", "A", "a_1"]


def test_a_column_that_is_named_by_a_text_of_the_shop_acts_on_no_terminal(capsys):
    write_result(pa.table({"\x1b[31mred": [1]}), "table", None)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"\x1b[31mred" in shown


def test_an_empty_query_and_a_colon_that_makes_no_parameter_are_told(tmp_path, capsys):
    root = make_warehouse(tmp_path).path()
    assert run(["sql", "--warehouse", root, "-q", ""]) == 2
    assert "-q: give one query (SELECT …); found: nothing" in capsys.readouterr().err
    assert run(["sql", "--warehouse", root, "-q", "SELECT {'a':NULL}"]) == 2
    assert "one that is none gets a space after" in capsys.readouterr().err
    assert run(["sql", "--warehouse", root, "-q", "SELECT {'a': NULL} AS s"]) == 0
