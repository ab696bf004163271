"""Files that end too soon or do not unpack: found by reading each once, before the log is read."""

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession


def reading_error(spark: SparkSession, format: str, path: str) -> str | None:
    """What goes wrong when the whole file is read; None when nothing does."""
    reader = "parquet" if format == "parquet" else "text"
    try:
        spark.read.format(reader).load(path).write.format("noop").mode("overwrite").save()
    except (PySparkException, Py4JJavaError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        causes = [line for line in lines if line.startswith("Caused by: ")]
        cause = causes[-1].removeprefix("Caused by: ") if causes else lines[0]
        return f"cannot be read: {cause}"
    return None
