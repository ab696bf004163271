"""The Spark session of the jobs, and what it needs from the machine."""

import os
import shutil
import sys
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from r2ec.errors import NotReadyError

# One split of a file is one partition (a file's opening is said to cost as much as a whole split):
# a row's place in its file then follows from the split's start and the row's number within it.
SPLIT_BYTES = 32 * 1024 * 1024
# Shuffled bytes a partition is made for, and below which more of them cost more than they save.
PARTITION_BYTES = 64 * 1024 * 1024
SMALL_PARTITION_BYTES = 1024 * 1024

SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.files.maxPartitionBytes": str(SPLIT_BYTES),
    "spark.sql.files.openCostInBytes": str(SPLIT_BYTES),
    "spark.sql.adaptive.enabled": "true",
    # Batches for Python are bounded by bytes: a chunk of the log is one row of some megabytes.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    "spark.sql.execution.arrow.maxBytesPerBatch": str(8 * 1024 * 1024),
    # A partitioned write keeps one open file per partition value rather than sort wide rows.
    "spark.sql.maxConcurrentOutputFileWriters": "16",
}


def require_java() -> None:
    """Raise NotReadyError, with the way to get it, when there is no Java to run Spark on."""
    home = os.environ.get("JAVA_HOME")
    found = os.path.exists(os.path.join(home, "bin", "java")) if home else shutil.which("java")
    if not found:
        where = f"JAVA_HOME={home} has no bin/java" if home else "there is no java on the PATH"
        raise NotReadyError(
            f"Spark needs Java 17 or newer, and {where}; "
            "get it with: apt-get install openjdk-17-jre-headless (then set JAVA_HOME if needed)"
        )


def open_session(app_name: str, *, with_metastore: bool = False) -> SparkSession:
    """The running session, or a new one (local unless spark-submit said otherwise), set up.

    With `with_metastore` its tables are those of Hive's metastore, as in `spark-sql` and `pyspark`,
    unless the settings name another catalog: Spark's own forgets them when the job ends. Raises
    NotReadyError when Java is missing.
    """
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        require_java()
    builder = SparkSession.builder.appName(app_name)
    # Spark's progress bar overwrites its line: right on a terminal, noise in a log.
    builder = builder.config("spark.ui.showConsoleProgress", str(sys.stderr.isatty()).lower())
    builder = builder.config("spark.log.level", "WARN")
    if "SPARK_ENV_LOADED" not in os.environ:
        # Not under spark-submit: on one machine the web page and its port are of no use.
        builder = builder.config("spark.ui.enabled", "false")
    if with_metastore and _has_metastore():
        builder = builder.enableHiveSupport()
    spark = builder.getOrCreate()
    return apply_settings(spark)


def _has_metastore() -> bool:
    """Whether to use Hive's metastore: nothing else was asked for, and Spark came with it."""
    SparkContext._ensure_initialized()
    jvm: Any = SparkContext._jvm
    if SparkConf().contains("spark.sql.catalogImplementation"):
        return False
    try:
        jvm.java.lang.Class.forName("org.apache.hadoop.hive.conf.HiveConf")
    except Py4JJavaError:
        return False
    return True


def apply_settings(spark: SparkSession) -> SparkSession:
    """Give a session the settings that the jobs rely on; returns the same session."""
    context = spark.sparkContext
    context.setLogLevel("WARN")
    if str(context.master).startswith("local") and "PYSPARK_PYTHON" not in os.environ:
        context.pythonExec = sys.executable
    for name, value in SETTINGS.items():
        spark.conf.set(name, value)
    return spark


def fit_partitions(spark: SparkSession, num_bytes: int) -> None:
    """Set the number of shuffle partitions for an input of this many bytes, read uncompressed.

    A number that was given to spark-submit stays. What is computed does not depend on it.
    """
    given = spark.sparkContext.getConf().contains("spark.sql.shuffle.partitions")
    if not given:
        few = min(spark.sparkContext.defaultParallelism, 1 + num_bytes // SMALL_PARTITION_BYTES)
        fitting = max(few, -(-num_bytes // PARTITION_BYTES))
        spark.conf.set("spark.sql.shuffle.partitions", str(fitting))
