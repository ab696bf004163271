"""The log as typed events: every input row, kept or rejected with a reason."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from r2ec.errors import NotReadyError
from r2ec.etl.events import typed_events
from r2ec.etl.files import (
    InputFile,
    find_inputs,
    require_columns,
    require_columns_somewhere,
    resolve,
)
from r2ec.etl.inputs import InteractionInput
from r2ec.etl.packing import OUTSIDE_WINDOW, UNKNOWN_ITEM
from r2ec.etl.rows import read_rows
from r2ec.etl.times import check_time_format

OPTIONS = {
    "user": "--user-column",
    "item": "--item-column",
    "rating": "--rating-column",
    "time": "--time-column",
    "order": "--order-by",
    "keep": "--keep-column",
    "quantity": "--quantity-column",
    "invoice": "--invoice-column",
}


def find_interactions(spark: SparkSession, log: InteractionInput) -> list[InputFile]:
    """The files of the log.

    Raises `UsageError` for missing columns, `NotReadyError` for no files and for a log without a
    row.
    """
    files = find_inputs(spark, log, "--interactions")
    require_columns(files, log.columns(), log.required(), OPTIONS)
    require_columns_somewhere(spark, files, "--interactions")
    check_time_format(spark, log.time_format)
    if not any(file.columns for file in files):
        names = ", ".join(file.uri for file in files)
        raise NotReadyError(f"the log is empty: {names}; give files with events by --interactions")
    return files


def read_interactions(
    spark: SparkSession, files: list[InputFile], log: InteractionInput
) -> DataFrame:
    """One row per input row, `reason` null for an event, with the order columns if there are any.

    `user_id`, `item_id`, `rating` float, `time` in microseconds, `place`, `line` as it was read.
    """
    columns = resolve(files, log.columns())
    return read_rows(spark, files, columns, lambda rows: typed_events(rows, log))


def order_columns(log: InteractionInput) -> list[str]:
    """The columns between time and place in the order of the log."""
    return ["order_number", "order_text"] if log.order_by else []


def within(interactions: DataFrame, since: int | None, until: int | None) -> DataFrame:
    """Mark the events before `since` or not before `until` (microseconds) as outside."""
    outside = F.lit(False)
    if since is not None:
        outside = outside | (F.col("time") < since)
    if until is not None:
        outside = outside | (F.col("time") >= until)
    reason = F.when(F.col("reason").isNull() & outside, OUTSIDE_WINDOW)
    return interactions.withColumn("reason", F.coalesce("reason", reason))


def with_item_index(
    interactions: DataFrame, catalog: DataFrame, reason: str = UNKNOWN_ITEM
) -> DataFrame:
    """Add the catalog's `item_index`; an event of an item that is not there gets the reason."""
    known = catalog.select("item_id", "item_index")
    joined = interactions.join(known, on="item_id", how="left")
    unknown = F.col("reason").isNull() & F.col("item_index").isNull()
    return joined.withColumn("reason", F.when(unknown, reason).otherwise(F.col("reason")))
