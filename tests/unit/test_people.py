import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2ec.cli import screen, user_page
from r2ec.cli.main import run
from tests.factories.warehouse import FIRST_DATE, ITEMS, SECOND_DATE, make_warehouse


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_warehouse(tmp_path_factory.mktemp("warehouse")).path()


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_show_prints_history_reasoning_and_list_within_80_columns(root, capsys):
    assert run(["show", "--warehouse", root, "--date", SECOND_DATE, "ann"]) == 0
    shown = capsys.readouterr().out
    history, rest = shown.split("Reasoning")
    reasoning, recommended = rest.split("Recommended")
    assert history.index("Halmont Inkjet Printer") < history.index("Solinova Tea Kettle")
    assert "yesterday" in history
    assert "★★★★★" in history
    assert "ann likes music" in reasoning
    assert "ended at the answer marker, 14 tokens ─╯" in reasoning
    titles = [ITEMS[index][1] for index in (1, 3, 5)]
    places = [recommended.index(title) for title in titles]
    assert places == sorted(places)
    assert "9.750" in recommended
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_show_names_the_store_where_the_title_does_not():
    page = [{"title": "Oak Desk", "item_id": "1", "store": "Halmont"}]
    page.append({"title": "Halmont Oak Desk", "item_id": "2", "store": "HALMONT"})
    page.append({"title": None, "item_id": "3", "store": None})
    assert [str(user_page._item(row)) for row in page] == [
        "Oak Desk  Halmont",
        "Halmont Oak Desk",
        "3",
    ]


@pytest.mark.parametrize(
    ("rating", "shown"),
    [
        (None, ""),
        (0.0, "·····"),
        (0.5, "½····"),
        (2.5, "★★½··"),
        (3.5, "★★★½·"),
        (4.5, "★★★★½"),
        (4.8, "★★★★★"),
        (5.0, "★★★★★"),
        (8.0, "8"),
        (-1.0, "-1"),
    ],
)
def test_show_tells_halves_of_stars_and_ratings_of_other_scales(rating, shown):
    assert user_page._stars(rating) == shown


def test_show_takes_as_many_items_as_asked_for(root, capsys):
    command = ["show", "--warehouse", root, "--date", SECOND_DATE, "--top-k", "1", "ann"]
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert ITEMS[1][1] in shown
    assert ITEMS[3][1] not in shown


def test_text_of_the_shop_neither_colours_nor_marks_up_the_terminal(root, capsys):
    assert run(["show", "--warehouse", root, "--date", SECOND_DATE, "bob"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"\x1b[31m" in shown
    assert "[bold]and[/bold]" in shown
    assert "🎸 <Classic>" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ★ é 日本", "plain ★ é 日本"),
        ("two\nlines\tand", "two lines and"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\u202egnp.exe", r"a\x202egnp.exe"),
        ("👩\u200d🎤", "👩\u200d🎤"),
        ("nul\x00 bell\x07 c1\x9b", r"nul\x00 bell\x07 c1\x9b"),
    ],
)
def test_characters_that_act_on_a_terminal_are_made_visible(text, shown):
    assert screen.printable(text) == shown


def test_show_says_which_dates_are_published(root, capsys):
    assert run(["show", "--warehouse", root, "--date", "2024-06-01", "ann"]) == 3
    shown = capsys.readouterr().err
    assert FIRST_DATE in shown
    assert SECOND_DATE in shown
    assert "r2ec-cli score --date 2024-06-01" in shown


def test_show_names_a_user_who_is_not_there(root, capsys):
    assert run(["show", "--warehouse", root, "--date", SECOND_DATE, "nobody"]) == 3
    assert "'nobody'" in capsys.readouterr().err


def test_a_day_that_is_none_is_wrong_use(root, capsys):
    assert run(["show", "--warehouse", root, "--date", "2024-06-31", "ann"]) == 2
    assert "'2024-06-31' is not a day" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sql -q runs", f"show --date {FIRST_DATE} ann"])
def test_a_warehouse_that_is_not_there_is_not_ready(tmp_path, capsys, command):
    name, *rest = command.split()
    assert run([name, "--warehouse", str(tmp_path / "none"), *rest]) == 3
    assert "no warehouse at" in capsys.readouterr().err


def test_sql_runs_a_named_query_with_parameters_as_csv_and_json(root, capsys):
    values = ["--param", f"date={SECOND_DATE}", "--param", "user_id=o'hara"]
    command = ["sql", "--warehouse", root, "user_recommendations", *values]
    assert run([*command, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["item_id"] for row in rows] == ["B0TEA", "B0INK", "B0PRINTER"]
    assert run([*command, "--format", "json"]) == 0
    objects = json.loads(capsys.readouterr().out)
    assert [row["rank"] for row in objects] == [1, 2, 3]
    assert objects[0]["score"] == 9.75


def test_sql_of_no_rows_is_still_valid_in_every_format(root, capsys):
    command = ["sql", "--warehouse", root, "-q", "SELECT * FROM runs WHERE 1 = 0", "--format"]
    assert run([*command, "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run([*command, "csv"]) == 0
    assert capsys.readouterr().out.startswith("run_id,model,")
    assert run([*command, "table"]) == 0
    assert "no rows" in capsys.readouterr().out


def test_sql_writes_lists_times_and_nulls_as_json(root, capsys):
    query = "SELECT history_time, history_rating FROM histories WHERE user_id = 'o''hara'"
    assert run(["sql", "--warehouse", root, "-q", query, "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {"history_time": ["2024-05-31T12:00:00+00:00"], "history_rating": [None]}


def test_sql_table_too_wide_for_the_terminal_becomes_one_value_a_line():
    narrow = pa.table({"user_id": ["ann"], "rank": [1]})
    wide = pa.table({f"column_number_{i}": ["some text of the shop"] for i in range(8)})
    assert screen.is_narrow_enough(narrow, 80)
    assert not screen.is_narrow_enough(wide, 80)


REFUSED = {
    "COPY runs TO '{folder}/out.csv'": "give one query (SELECT …); found: COPY",
    "EXPORT DATABASE '{folder}/out'": "found: EXPORT",
    "SELECT * FROM read_csv('/etc/passwd')": "tables and views, and nothing else",
    "SELECT * FROM read_text('{folder}/secret.csv')": "tables and views, and nothing else",
    "SELECT * FROM '{folder}/secret.csv'": "tables and views, and nothing else",
    "SELECT * FROM glob('{folder}/*')": "tables and views, and nothing else",
    "SELECT * FROM read_json('https://example.com/a.json')": "nothing else",
    "SELECT * FROM query('COPY runs TO ''{folder}/out.csv''')": "single SELECT",
    "ATTACH '{folder}/other.db'": "found: ATTACH",
    "INSTALL httpfs": "found: LOAD",
    "LOAD httpfs": "found: LOAD",
    "SET enable_external_access = true": "found: SET",
    "RESET enable_external_access": "found: SET",
    "PRAGMA enable_profiling": "found: PRAGMA",
    "CREATE SECRET s (TYPE s3)": "found: CREATE",
    "INSERT INTO runs SELECT * FROM runs": "found: INSERT",
    "SELECT 1; COPY runs TO '{folder}/out.csv'": "found: SELECT, COPY",
    "SELECT 1; SELECT 2": "found: SELECT, SELECT",
    "-- nothing": "found: nothing",
}


@pytest.mark.parametrize("query", list(REFUSED))
def test_sql_refuses_files_settings_and_writing_with_exit_code_2(root, tmp_path, capsys, query):
    (tmp_path / "secret.csv").write_text("a\nhidden\n")
    assert run(["sql", "--warehouse", root, "-q", query.format(folder=tmp_path)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: -q: ")
    assert REFUSED[query] in shown.err
    assert "hidden" not in shown.out + shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


def test_sql_writes_parquet_to_a_file_or_to_a_pipe(root, tmp_path, capfdbinary):
    query = "SELECT user_id, rank, score, date FROM recommendations ORDER BY ALL"
    command = ["sql", "--warehouse", root, "-q", query, "--format", "parquet"]
    file = tmp_path / "rows.parquet"
    assert run([*command, "--output", str(file)]) == 0
    assert capfdbinary.readouterr().out == b""
    rows = pq.read_table(file)
    assert rows.schema.types == [pa.string(), pa.int32(), pa.float32(), pa.date32()]
    assert rows.num_rows == 15
    assert run(command) == 0
    piped = pq.read_table(pa.BufferReader(capfdbinary.readouterr().out))
    assert piped.equals(rows)


@pytest.mark.parametrize("output_format", ["table", "csv", "json"])
def test_sql_writes_to_a_file_what_it_would_print(root, tmp_path, capsys, output_format):
    query = "SELECT title, store FROM catalog ORDER BY ALL"
    command = ["sql", "--warehouse", root, "-q", query, "--format", output_format]
    assert run(command) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "rows.txt"
    assert run([*command, "--output", str(file)]) == 0
    assert file.read_text(encoding="utf-8") == printed
    assert "🎸" in printed


def test_sql_puts_no_parquet_on_a_terminal(root, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run(["sql", "--warehouse", root, "-q", "FROM runs", "--format", "parquet"]) == 2
    assert "give --output FILE" in capsys.readouterr().err


def test_sql_writes_nothing_into_the_warehouse(root, capsys):
    file = f"{root}/runs/date={SECOND_DATE}/run.parquet"
    command = ["sql", "--warehouse", root, "-q", "FROM runs", "--format", "parquet"]
    assert run([*command, "--output", file]) == 2
    assert "lies in the warehouse" in capsys.readouterr().err
    assert pq.ParquetFile(file).metadata.num_rows == 1


def test_sql_makes_no_file_where_the_query_fails(root, tmp_path):
    file = tmp_path / "rows.csv"
    assert (
        run(["sql", "--warehouse", root, "-q", "SELECT no FROM runs", "--output", str(file)]) == 2
    )
    assert not file.exists()


def test_sql_names_a_file_that_is_no_text(root, tmp_path, capsys):
    file = tmp_path / "packed.sql"
    file.write_bytes(b"\xff\xfe\x00")
    assert run(["sql", "--warehouse", root, str(file)]) == 2
    assert f"{file}: no SQL text in UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either a FILE or a query"),
        (["x.sql", "-q", "SELECT 1"], "either a FILE or a query"),
        (["no_such.sql"], "no query of that name"),
        (["user_recommendations"], "--param date="),
        (["-q", "SELECT 1", "--param", "a=1"], "no parameter a"),
        (["-q", "SELECT :a", "--param", "a"], "NAME=VALUE"),
        (["-q", "SELECT :a", "--param", "a=1", "--param", "a=2"], "a is given twice"),
        (["scoring_errors", "--param", "date=May"], "date='May' is not a day"),
        (["cost_per_day", "--param", "last_date=2024-06-31"], "is not a day"),
        (["scoring_errors", "--param", "date=20240531"], "is not a day"),
        (["rising_items", "--param", "date=2024-05-31", "--param", "top=all"], "'all'"),
        (["-q", "SELEC 1"], "syntax error"),
        (["-q", "SELECT nothing FROM runs"], "nothing"),
    ],
)
def test_sql_says_what_was_wrong_with_its_arguments(root, capsys, arguments, message):
    assert run(["sql", "--warehouse", root, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_sql_says_that_a_date_is_not_published_where_the_query_is_of_published_runs(root, capsys):
    command = ["sql", "--warehouse", root, "coverage_and_gini", "--param"]
    assert run([*command, "date=2024-06-01"]) == 0
    shown = capsys.readouterr()
    assert (
        shown.err == f"note: 2024-06-01 is not published (published: {FIRST_DATE}, {SECOND_DATE})\n"
    )
    assert "num_items" in shown.out
    assert run([*command, f"date={SECOND_DATE}"]) == 0
    own = ["sql", "--warehouse", root, "-q", "SELECT :date AS day", "--param", "date=2024-06-01"]
    assert run(own) == 0
    assert capsys.readouterr().err == ""


def test_sql_prints_a_view_by_its_name(root, capsys):
    assert run(["sql", "--warehouse", root, "v_recommendations", "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 16
