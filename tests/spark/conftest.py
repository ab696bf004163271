import pytest

from r2ec.etl.session import open_session


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """One small local session for all Spark tests; tables made in it go to a folder of its own."""
    from pyspark.sql import SparkSession

    (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "2g")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("spark-warehouse")))
        .getOrCreate()
    )
    session = open_session("r2ec tests")
    yield session
    session.stop()
