import os

import pytest

from r2ec.cli import checks
from r2ec.cli.main import run
from tests.factories.warehouse import make_warehouse


@pytest.fixture
def fake_java(tmp_path):
    """Makes a java whose `-version` tells this text, and returns its JAVA_HOME."""

    def make(text):
        home = tmp_path / "jdk"
        (home / "bin").mkdir(parents=True)
        java = home / "bin" / "java"
        java.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{text}\nEND\n")
        java.chmod(0o755)
        return str(home)

    return make


@pytest.mark.parametrize(
    ("text", "major", "status"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17, "ok"),
        ('openjdk version "21" 2023-09-19', 21, "ok"),
        ('java version "1.8.0_402"', 8, "missing"),
        ('openjdk version "11.0.22" 2024-01-16', 11, "missing"),
    ],
)
def test_java_must_be_17_or_newer(fake_java, monkeypatch, text, major, status):
    monkeypatch.setenv("JAVA_HOME", fake_java(text))
    check = checks.check_java()
    assert check.status == status
    assert f"version {major} " in check.found
    assert ("openjdk-17-jre-headless" in check.remedy) == (status == "missing")


def test_missing_java_is_named_with_its_remedy_and_exit_code_3(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setattr(checks, "check_devices", lambda: iter(()))
    assert run(["doctor", "--warehouse", str(tmp_path / "warehouse")]) == 3
    shown = capsys.readouterr()
    assert "has no working bin/java" in shown.out
    assert "openjdk-17-jre-headless" in " ".join(shown.out.split())
    assert shown.err == "error: missing: java (Java) (see above)\n"


def test_packages_are_listed_by_extra_with_versions():
    found = {check.name: check for check in checks.check_packages()}
    assert set(found) == {"base", "spark", "train", "k8s", "dev"}
    assert "pyarrow " in found["base"].found
    assert "pyspark " in found["spark"].found
    assert all(check.status == "ok" for check in found.values())


def test_a_missing_package_names_the_command_that_brings_it(monkeypatch):
    present = checks._version
    monkeypatch.setattr(checks, "_version", lambda name: None if name == "torch" else present(name))
    found = {check.name: check for check in checks.check_packages()}
    assert found["train"].status == "missing"
    assert found["train"].remedy.startswith("torch missing: pip install")
    assert "[train]" in found["train"].remedy


def test_warehouse_tells_what_is_in_it(tmp_path):
    root = make_warehouse(tmp_path / "warehouse").path()
    found = {check.name: check for check in checks.check_warehouse(root)}
    assert found["writable"].status == "ok"
    assert found["tables"].found == "catalog 2024-05-31, published dates: 2, last 2024-05-31"


def test_a_warehouse_that_is_not_there_yet_is_no_fault(tmp_path):
    found = {check.name: check for check in checks.check_warehouse(str(tmp_path / "new"))}
    assert found["tables"].status == "note"
    assert found["writable"].status == "ok"
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_missing_with_its_remedy():
    found = list(checks.check_warehouse(os.path.abspath(__file__)))
    assert found[-1].status == "missing"
    assert "cannot write to the warehouse" in found[-1].remedy
    assert "--warehouse" in found[-1].remedy


def test_an_address_of_an_unknown_kind_is_missing():
    (check,) = checks.check_warehouse("ftp://somewhere/x")
    assert check.status == "missing"
    assert "ftp" in check.remedy
