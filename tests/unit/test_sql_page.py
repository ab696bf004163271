"""docs/sql.md: what it names is there, what it shows is what comes out."""

import re
import shlex
from pathlib import Path

import pytest
import sqlglot

from r2ec import schemas, sql_files
from r2ec.cli.main import run
from r2ec.warehouse_views import open_views
from tests.factories.query_warehouse import make_query_warehouse

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sql.md").read_text(encoding="utf-8")
EXAMPLES = [
    (command, shown)
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    if command.startswith("r2ec-cli ")
]
BLOCKS = re.findall(r"```sql (\w+)\n(.*?)```", PAGE, re.DOTALL)
# Statements that sqlglot takes as they are, without looking into them.
UNPARSED = (
    r"MSCK REPAIR TABLE \w+|CALL system\.\w+\(.*\)|CREATE EXTERNAL TABLE .* PARTITION COLUMNS"
)


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    return make_query_warehouse(tmp_path_factory.mktemp("warehouse"))


@pytest.mark.parametrize("file", sql_files.read_folder("queries"), ids=lambda file: file.name)
def test_every_query_has_its_parameters_and_an_example_with_rows(file):
    section = PAGE.split(f"\n#### `{file.name}`\n")[1].split("\n#")[0]
    for name, default in file.params.items():
        assert f"`{name}`" in section or f"`{name}={default}`" in section
    assert f"$ r2ec-cli sql {file.name} " in section
    (shown,) = [shown for command, shown in EXAMPLES if f"sql {file.name} --param" in command][-1:]
    assert shown.count("\n") >= 2


def named_in_row(name):
    (row,) = re.findall(rf"^\| `{name}` \|.*$", PAGE, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", row.split("|")[3]))


@pytest.mark.parametrize("table", schemas.TABLES.values(), ids=lambda table: table.name)
def test_every_table_stands_there_with_all_its_columns(table):
    missing = {*table.schema.names, *table.partition_by} - named_in_row(table.name)
    assert missing == set()


@pytest.mark.parametrize("view", sql_files.read_folder("views"), ids=lambda file: file.name)
def test_every_view_stands_there_with_its_columns_and_no_others(warehouse, view):
    with open_views(warehouse) as views:
        columns = {row[0] for row in views.sql(f"DESCRIBE {view.name}").fetchall()}
    assert named_in_row(view.name) == columns


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=lambda text: text[:60].strip())
def test_every_command_of_the_page_runs_and_prints_what_is_shown(
    warehouse, command, shown, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("R2EC_WAREHOUSE", warehouse.root)
    assert run(shlex.split(command)[1:]) == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert not shown or printed == [line.strip() for line in shown.splitlines()]


@pytest.mark.parametrize(("dialect", "text"), BLOCKS, ids=lambda text: " ".join(text.split())[:40])
@pytest.mark.filterwarnings("ignore")
def test_every_sql_block_parses_in_the_dialect_that_its_fence_names(dialect, text):
    for statement in sql_files.statements(text):
        tree = sqlglot.parse_one(statement, read=dialect)
        is_opaque = isinstance(tree, sqlglot.exp.Command)
        assert not is_opaque or re.match(UNPARSED, " ".join(statement.split()))


def test_declared_columns_are_those_of_the_tables():
    declared = 0
    for dialect, text in BLOCKS:
        tree = sqlglot.parse_one(sql_files.statements(text)[0], read=dialect)
        if isinstance(tree, sqlglot.exp.Create):
            columns = [column.name for column in tree.find_all(sqlglot.exp.ColumnDef)]
            table = schemas.TABLES[tree.find(sqlglot.exp.Table).name]
            assert columns == [*table.schema.names, *table.partition_by]
            declared += 1
    assert declared == 4
