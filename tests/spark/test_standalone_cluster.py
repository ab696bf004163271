"""The jobs on a cluster: executors of 512 MB, the package by --py-files, one executor killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyspark
import pytest

from tests.factories.jobs import contents, run_catalog, run_sequences
from tests.factories.logs import make_items, make_log, write_csv, write_jsonl
from tests.factories.spark_cluster import HOST, spark_cluster

pytestmark = [pytest.mark.spark, pytest.mark.e2e]

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = make_log(seed=13, users=400, items=60, events=20_000)
CORE = ("--min-user-events", 3, "--min-item-events", 3)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A log in several files, and the metadata of its items."""
    folder = tmp_path_factory.mktemp("shop")
    for number in range(6):
        write_csv(folder / "log" / f"{number}.csv", ROWS[number::6])
    return folder / "log", write_jsonl(folder / "meta.jsonl", make_items(ROWS))


def start(cluster, folder, job, *options):
    """spark-submit in client mode, executors of one core and 512 MB."""
    home = Path(pyspark.__file__).parent
    env = {name: os.environ[name] for name in ("PATH", "JAVA_HOME", "HOME") if name in os.environ}
    env |= {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": HOST, "PYSPARK_PYTHON": sys.executable}
    command = [
        *(home / "bin" / "spark-submit", "--master", cluster.url, "--driver-memory", "512m"),
        *("--executor-memory", "512m", "--executor-cores", 1),
        *("--conf", f"spark.driver.bindAddress={HOST}", "--conf", f"spark.driver.host={HOST}"),
        *("--conf", "spark.sql.shuffle.partitions=8"),
        *("--driver-java-options", "-XX:TieredStopAtLevel=1"),
        *("--conf", "spark.executor.extraJavaOptions=-XX:TieredStopAtLevel=1"),
        *("--py-files", folder / "r2ec.zip", REPOSITORY / "jobs" / f"{job}.py", *options),
    ]
    return subprocess.Popen(
        list(map(str, command)), env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()[-3000:]
    return out.decode()


def test_a_cluster_builds_what_one_process_does_though_an_executor_is_killed(spark, shop, tmp_path):
    log, items = shop
    script = [sys.executable, REPOSITORY / ".ci" / "build_zip.py", tmp_path / "r2ec.zip"]
    subprocess.run(script, check=True, capture_output=True)
    alone, warehouse = tmp_path / "alone", tmp_path / "warehouse"
    inputs = ("--interactions", log)
    run_catalog(spark, alone, "--items", items, *inputs)
    run_sequences(spark, alone, *inputs, *CORE)
    (tmp_path / "cluster").mkdir()
    with spark_cluster(tmp_path / "cluster") as cluster:
        where = (*inputs, "--warehouse", warehouse)
        finish(start(cluster, tmp_path, "build_catalog", "--items", items, *where))
        job = start(cluster, tmp_path, "build_sequences", *where, *CORE)
        killed = kill_an_executor(cluster, job, warehouse)
        assert "build_sequences histories" in finish(job)
    assert killed
    assert contents(warehouse) == contents(alone)


def kill_an_executor(cluster, job, warehouse):
    """Kill one of the executors while the job is at work; returns its process."""
    while job.poll() is None:
        # From the first staged file on, chunks are held by the executors: some are lost now.
        at_work = any(warehouse.glob("_staging/etl/build_sequences-*/**/*"))
        executors = cluster.executor_pids()
        if at_work and len(executors) == 2:
            os.kill(executors[0], signal.SIGKILL)
            return executors[0]
        time.sleep(0.02)
    return None
