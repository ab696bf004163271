"""TAB in bash, by the script that the README tells to load."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from r2ec import sql_files
from r2ec.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUERIES = [file.name for file in sql_files.read_folder("queries")]
ASK = """
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_r2ec_cli_completion r2ec-cli
printf '%s\\n' "${COMPREPLY[@]}"
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture(scope="module")
def offered(tmp_path_factory):
    """What bash offers after the words, the last of which is being written."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "r2ec-cli"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m r2ec "$@"\n')
    program.chmod(0o755)
    (setting,) = re.findall(r"```bash\n(eval .*)\n```", README)

    def ask(*words):
        done = subprocess.run(
            ["bash", "--norc", "-c", setting + ASK, "bash", "r2ec-cli", *words],
            env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return ask


def test_commands_are_offered_by_their_beginning(offered):
    assert offered("") == list(COMMANDS)
    assert offered("s") == [name for name in COMMANDS if name.startswith("s")]
    assert offered("k8s", "sub") == ["submit"]


def test_options_and_their_choices_are_offered(offered):
    assert offered("score", "--num") == ["--num-shards"]
    assert offered("sql", "--format", "") == ["table", "csv", "json", "parquet"]
    assert offered("k8s", "logs", "s") == ["spark", "score"]


def test_queries_are_offered_by_name(offered):
    assert offered("sql", "rising") == ["rising_items"]
    assert set(QUERIES) < set(offered("sql", ""))
    assert offered("sql", "--format", "json", "v_") == ["v_recommendations", "v_user_history"]
