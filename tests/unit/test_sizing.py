"""docs/operations.md: the sizes are what the measured rates give."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from tests.factories.commands import REPOSITORY

FILE = REPOSITORY / "benchmarks" / "sizing.py"
PAGE = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
SECTION = PAGE.split("\n## Sizing\n")[1].split("\n## ")[0]
LOG = (REPOSITORY / "docs" / "LOG.md").read_text("utf-8")


def load():
    spec = importlib.util.spec_from_file_location("sizing", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sizing"] = module
    spec.loader.exec_module(module)
    return module


sizing = load()


def output(*arguments: str) -> list[str]:
    command = [sys.executable, str(FILE), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_the_table_of_the_page_is_what_the_command_prints() -> None:
    *table, figures = output()
    assert "\n".join(table) in SECTION
    assert [night["users"] for night in json.loads(figures)["nights"]] == [10**6, 10**7, 10**8]


@pytest.mark.parametrize(
    "command", re.findall(r"^\$ python benchmarks/sizing.py(.*)$", SECTION, re.M)
)
def test_every_command_of_the_section_runs(command: str) -> None:
    assert output(*command.split())[0].startswith("| users |")


@pytest.mark.parametrize(
    "row",
    [
        r"\| 10\^6 \| 3\.2 \| 16\.1 \|.*\| 4\.4 \|",
        r"\| 10\^7 \| 37\.2 \| 49\.6 \|.*\| 18\.0 \|",
        r"\| ours \| 8\.05 \|",
        r"\| 1,000,000 x 256 \| 1,000 \| 684 \|",
        r"\| 1,000,000 \| 23\.0 s \| 15\.2 s \|",
    ],
)
def test_every_rate_was_measured(row: str) -> None:
    assert re.search(row, LOG)


def test_the_measured_logs_take_the_measured_time() -> None:
    rates = sizing.Rates()
    for events, seconds in ((10**6, 16.1 + 4.4), (10**7, 49.6 + 18.0)):
        assert rates.build_fixed + rates.build_per_event * events == pytest.approx(2 * seconds)


def test_a_night_is_spark_then_scoring_then_publishing() -> None:
    rates = sizing.Rates(
        build_fixed=0,
        build_per_event=0.36,
        users_per_second=1,
        rank_per_user=0,
        write_per_user=0,
        publish_per_user=3.6,
    )
    night = sizing.night(rates, users=1000, devices=2, changed=0.36, price=10)
    assert (night.build_hours, night.score_hours) == pytest.approx((1.0, 0.1))
    assert night.publish_hours == pytest.approx(1.0)
    assert night.wall_hours == pytest.approx(1.55)
    assert night.cost == pytest.approx(21)
