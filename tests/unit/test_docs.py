import re
import shutil
import subprocess
from pathlib import Path

import pytest

from r2ec import schemas, sql_files
from r2ec.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA_FLOW = (ROOT / "docs" / "data_flow.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_stands_in_the_readme(name):
    assert f"| `r2ec-cli {name}` |" in README


def test_the_readme_names_no_command_that_is_not_there():
    named = set(re.findall(r"r2ec-cli ([a-z][a-z-]+)", "".join(page.read_text() for page in PAGES)))
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("table", list(schemas.TABLES))
def test_every_table_stands_in_the_data_flow(table):
    assert re.search(rf"\| [^\n]*`[^`]*\b{table}\b", DATA_FLOW)


@pytest.mark.parametrize("folder", ["views", "queries"])
def test_every_view_and_query_stands_in_the_data_flow_with_its_parameters(folder):
    for file in sql_files.read_folder(folder):
        (row,) = [line for line in DATA_FLOW.splitlines() if line.startswith(f"| `{file.name}` |")]
        for name, default in file.params.items():
            assert f"`{name}`" in row or f"`{name}={default}`" in row


def test_the_annotated_tree_names_what_is_there():
    tree = README.split("```text\n")[1].split("```")[0]
    for line in tree.splitlines():
        names = re.findall(r"(?<![\w/])[\w.]+(?:/|\.py)(?!\w)", line)
        if not line.startswith(" "):
            folder = ROOT / names.pop(0)
            assert folder.is_dir(), f"the tree names {folder.name}"
        for name in names:
            assert (folder / name).exists(), f"the tree names {name} below {folder.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_pages_exist(page):
    named = re.findall(
        r"\b((?:jobs|configs|sql|r2ec|tests|docs|benchmarks)/[\w./-]*\w\.(?:py|sql|toml|md))",
        page.read_text(encoding="utf-8"),
    )
    for name in named:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_named_in_the_pages_exist(page):
    """As `tests/unit/test_docs.py: links_lead_somewhere`; `…` stands for the rest of a name."""
    for place in re.findall(r"`(tests/[\w./]+\.py(?:: [^`]+)?)`((?:, `\w+…?`)*)", page.read_text()):
        file, _, first = place[0].partition(": ")
        text = (ROOT / file).read_text()
        for name in [first, *re.findall(r"`(\w+…?)`", place[1])]:
            for one in filter(None, name.split(", ")):
                whole = "" if one.endswith("…") else r"\("
                assert re.search(rf"def test_{one.rstrip('…')}" + whole, text), (file, one)


def test_the_readme_has_as_many_commands_as_it_says_and_tells_where_they_come_from():
    section = README.split("## From raw logs to a recommendation in six commands\n")[1].split(
        "\n## "
    )[0]
    blocks = [block.split("```")[0] for block in section.split("```console\n")[1:]]
    lines = [[line[2:] for line in block.splitlines() if line.startswith("$ ")] for block in blocks]
    assert lines[0][0] == "make setup && source .venv/bin/activate"
    assert len(lines[1]) == 6
    assert all(line.startswith(("r2ec-cli ", "spark-submit ")) for line in lines[1])
    assert not any("&&" in line for line in lines[1])


def test_notes_for_contributors_stay_short():
    assert len((ROOT / "AGENTS.md").read_text().splitlines()) < 100


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_backfill_asks_for_every_day_of_its_range():
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(days=.*?)```", page, re.DOTALL)
    told = (
        "spark-submit() { printf '%s\\n' \"spark-submit $*\"; }\nr2ec-cli() { echo r2ec-cli $*; }\n"
    )
    done = subprocess.run(["bash", "-c", told + block], capture_output=True, text=True, check=True)
    job, *scored = done.stdout.splitlines()
    days = [f"2024-05-{day}" for day in range(24, 31)]
    assert re.findall(r"--date=(\S+)", job) == days
    assert scored == [f"r2ec-cli score --date {day} --model model" for day in days]
