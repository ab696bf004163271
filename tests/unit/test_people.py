import csv
import io
import json

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
    assert "marker, 14 tokens, ok" in reasoning
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
    import pyarrow as pa

    narrow = pa.table({"user_id": ["ann"], "rank": [1]})
    wide = pa.table({f"column_number_{i}": ["some text of the shop"] for i in range(8)})
    assert screen.is_narrow_enough(narrow, 80)
    assert not screen.is_narrow_enough(wide, 80)


def test_sql_refuses_files_and_writing_with_exit_code_2(root, tmp_path, capsys):
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for query in (f"SELECT * FROM read_csv('{secret}')", f"COPY runs TO '{tmp_path}/out.csv'"):
        assert run(["sql", "--warehouse", root, "-q", query]) == 2
        assert capsys.readouterr().err.startswith("error: -q: ")
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either a FILE or a query"),
        (["x.sql", "-q", "SELECT 1"], "either a FILE or a query"),
        (["no_such.sql"], "no query of that name"),
        (["user_recommendations"], "--param date="),
        (["-q", "SELECT 1", "--param", "a=1"], "no parameter a"),
        (["-q", "SELECT :a", "--param", "a"], "NAME=VALUE"),
        (["-q", "SELEC 1"], "syntax error"),
        (["-q", "SELECT nothing FROM runs"], "nothing"),
    ],
)
def test_sql_says_what_was_wrong_with_its_arguments(root, capsys, arguments, message):
    assert run(["sql", "--warehouse", root, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_sql_prints_a_view_by_its_name(root, capsys):
    assert run(["sql", "--warehouse", root, "v_recommendations", "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 16
