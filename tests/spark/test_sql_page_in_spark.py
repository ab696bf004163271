"""The Spark section of docs/sql.md, run as it stands by `spark-sql`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.factories.query_warehouse import LISTS, SECOND, make_query_warehouse

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.spark


def test_tables_and_views_are_registered_and_asked_as_the_page_says(tmp_path):
    warehouse = make_query_warehouse(tmp_path / "warehouse")
    (tmp_path / "sql").symlink_to(ROOT / "sql")
    section = (ROOT / "docs" / "sql.md").read_text().split("### Spark SQL\n")[1].split("\n### ")[0]
    (block,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    (repair,) = re.findall(r"```sql spark\n(.*?)```", section, re.DOTALL)
    lines = ["set -e", *(line.removeprefix("$ ") for line in block.splitlines())]
    lines[-1] = lines[-1].replace(
        '-e "', f'-e "{" ".join(repair.split())} SELECT current_timezone();'
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=os.environ
        | {"TZ": "Pacific/Auckland", "R2EC_WAREHOUSE": warehouse.path(), "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "UTC" in done.stdout.splitlines()  # and not that of the machine
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert sorted(row[0] for row in rows if len(row) == 3) == sorted(LISTS[SECOND])
