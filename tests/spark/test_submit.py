"""The jobs as processes of their own: what they need, what they print, how they end."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.factories.jobs import contents
from tests.factories.logs import make_log, make_shop

pytestmark = [pytest.mark.spark, pytest.mark.e2e]

REPOSITORY = Path(__file__).resolve().parents[2]
FAST = "-XX:TieredStopAtLevel=1"
# What Python imports at the start of every process of these tests, workers included: of all the
# packages that are installed, only these are there, and ours only in the zip.
ONLY = """
import sys

KNOWN = {"pyspark", "pyarrow", "py4j", *sys.stdlib_module_names}


class Only:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        in_zip = top == "r2ec" and any(entry.endswith("r2ec.zip") for entry in sys.path)
        if top in KNOWN or in_zip or top.startswith("_sysconfigdata"):
            return self.finder.find_spec(name, path, target)
        return None


sys.meta_path[:] = [Only(finder) for finder in sys.meta_path]
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder with the jobs and `r2ec.zip`, and the environment of a process with nothing more."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copytree(REPOSITORY / "jobs", folder / "jobs")
    script = [sys.executable, REPOSITORY / ".ci" / "build_zip.py", folder / "r2ec.zip"]
    subprocess.run(script, check=True, capture_output=True)
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(ONLY)
    spark_home = Path(sys.prefix) / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    env = {name: os.environ[name] for name in ("PATH", "JAVA_HOME", "HOME") if name in os.environ}
    env |= {
        "PYTHONPATH": str(folder / "site"),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_HOME": str(spark_home / "pyspark"),
    }
    return folder, env


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make_shop(tmp_path_factory.mktemp("shop"), make_log(seed=5, events=300))


def submit(bare, job, *options):
    folder, env = bare
    files = ["--py-files", str(folder / "r2ec.zip")]
    spark_submit = Path(env["SPARK_HOME"]) / "bin" / "spark-submit"
    local = ["--master", "local[2]", "--driver-java-options", FAST]
    command = [spark_submit, *local, *files, folder / "jobs" / f"{job}.py", *options]
    return subprocess.run(
        list(map(str, command)), env=env, cwd=folder, capture_output=True, text=True, timeout=300
    )


def run_job(bare, job, *options, **changes):
    """The job by plain Python, from the zip."""
    folder, env = bare
    env = env | {
        "PYTHONPATH": f"{env['PYTHONPATH']}:{folder / 'r2ec.zip'}",
        "PYSPARK_SUBMIT_ARGS": f"--driver-java-options {FAST} pyspark-shell",
    }
    command = [sys.executable, str(folder / "jobs" / f"{job}.py"), *map(str, options)]
    return subprocess.run(
        command, env=env | changes, cwd=folder, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def built(bare, shop, tmp_path_factory):
    """A warehouse that both jobs built, and what the second one printed."""
    log, items = shop
    warehouse = tmp_path_factory.mktemp("built") / "w"
    where = ("--interactions", log, "--warehouse", warehouse)
    options = ("--items", items, "--mapping", "amazon2023", "--register", "shop")
    done = submit(bare, "build_catalog", *where, *options)
    assert done.returncode == 0, done.stdout
    done = submit(bare, "build_sequences", *where, "--min-user-events", 2)
    assert done.returncode == 0, done.stdout
    return warehouse, done


def test_both_jobs_run_with_nothing_but_pyspark_and_pyarrow(bare, built, tmp_path):
    warehouse, done = built
    (line,) = done.stdout.splitlines()
    assert line.startswith("build_sequences histories 2017-08-")
    assert " rows in 300, kept " in line
    assert "\r" not in done.stderr  # no progress bar where there is no terminal
    assert {place.split("/")[0] for place in contents(warehouse)} == {
        "catalog",
        "sequences",
        "histories",
    }
    # What was registered is known to other processes by its name.
    table = ("--items-table", "shop.catalog", "--items-item-column", "item_id")
    other = ("--warehouse", tmp_path / "other", "--version", "2024-01-01", "--dry-run")
    done = run_job(bare, "build_catalog", *table, *other)
    assert done.returncode == 0, done.stderr
    assert "shop.catalog, table, " in done.stdout


@pytest.mark.parametrize("job", ["build_catalog", "build_sequences"])
def test_help_names_every_option_with_no_more_than_the_zip(bare, job):
    done = run_job(bare, job, "--help")
    assert done.returncode == 0, done.stderr
    for option in ("--interactions", "--user-column", "--time-unit", "--mapping", "--warehouse"):
        assert option in done.stdout


def test_a_user_mistake_is_one_line_and_an_exit_code(bare, shop, tmp_path):
    log, _ = shop
    done = submit(bare, "build_sequences", "--interactions", log, "--warehouse", tmp_path / "w")
    assert done.returncode == 3
    # spark-submit puts what a Python driver says on stderr to stdout as well.
    assert done.stdout.startswith("error: no catalog version at all")
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    done = run_job(bare, "build_sequences", PYTHONPATH=str(bare[0] / "site"))
    assert done.returncode == 1
    assert "error: no module 'r2ec'" in done.stderr
    assert "--py-files dist/r2ec.zip" in done.stderr


def test_missing_java_is_noticed_with_the_way_to_get_it(bare, shop, tmp_path):
    log, _ = shop
    options = ("--interactions", log, "--warehouse", tmp_path)
    done = run_job(bare, "build_sequences", *options, JAVA_HOME=str(tmp_path))
    assert done.returncode == 3
    assert "apt-get install openjdk-17-jre-headless" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_unwritable_warehouse_is_named(bare, shop, tmp_path):
    log, items = shop
    (tmp_path / "file").write_text("")
    where = ("--interactions", log, "--warehouse", tmp_path / "file" / "w")
    done = run_job(bare, "build_catalog", "--items", items, *where)
    assert done.returncode == 1
    assert f"cannot write to the warehouse {tmp_path}/file/w" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_breaks_off_is_named(bare, shop, built, tmp_path):
    log, _ = shop
    shutil.copytree(built[0] / "catalog", tmp_path / "w" / "catalog")
    catalog = contents(tmp_path / "w")
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(log.read_bytes()[:-500])
    done = run_job(bare, "build_sequences", "--interactions", cut, "--warehouse", tmp_path / "w")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "/cut.csv.gz" in last
    assert "cannot be read: java.io.EOFException" in last
    assert contents(tmp_path / "w") == catalog


def test_a_killed_job_leaves_the_tables_as_they_were_and_the_next_one_replaces_them(
    bare, shop, built, tmp_path
):
    shutil.copytree(built[0], tmp_path / "w")
    where = ("--interactions", shop[0], "--warehouse", tmp_path / "w")
    before = contents(tmp_path / "w")
    folder, env = bare
    env = env | {"PYTHONPATH": f"{env['PYTHONPATH']}:{folder / 'r2ec.zip'}"}
    command = [sys.executable, folder / "jobs" / "build_sequences.py", *where, "--window", 1]
    process = subprocess.Popen(list(map(str, command)), env=env, start_new_session=True)
    staging = tmp_path / "w" / "_staging" / "etl"
    until = time.monotonic() + 120
    while not list(staging.glob("*/sequences")) and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(staging.glob("*/sequences"))
    assert contents(tmp_path / "w") == before
    done = submit(bare, "build_sequences", *where, "--window", 1)
    assert done.returncode == 0, done.stdout
    after = contents(tmp_path / "w")
    assert after.keys() == before.keys()
    assert after != before


def test_the_zip_holds_the_sql_and_the_mappings(bare):
    names = set(zipfile.ZipFile(bare[0] / "r2ec.zip").namelist())
    assert {"r2ec/sql/audits/item_index_dense.sql", "r2ec/configs/mappings/movielens.toml"} <= names
