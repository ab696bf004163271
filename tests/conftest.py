"""Fixtures that tests of every folder may ask for."""

import os
from pathlib import Path

import pytest

# One thread, as the processes that tests start have: sums in another order end in other digits.
# Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_DATA = Path(os.environ.get("R2EC_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """One small local session for all Spark tests; tables made in it go to a folder of its own."""
    from pyspark.sql import SparkSession

    from r2ec.etl.session import open_session

    (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "2g")
        # Short queries: the quick compiler is enough, and half of the time is saved.
        # The code of some hundred queries does not fit into the small cache that comes with it.
        .config(
            "spark.driver.extraJavaOptions",
            "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ReservedCodeCacheSize=256m",
        )
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("spark-warehouse")))
        .getOrCreate()
    )
    session = open_session("r2ec tests")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def real_shop():
    """A function: name of a real shop -> its folder; skips the test where it is absent."""

    def find(name: str) -> Path:
        folder = REAL_DATA / name
        if not folder.is_dir():
            pytest.skip(
                f"no {folder}: the real shops are not here (R2EC_TEST_DATA names their folder)"
            )
        return folder

    return find
