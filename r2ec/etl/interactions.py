"""The log as typed events: every input row, kept or rejected with a reason."""

from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from r2ec.errors import NotReadyError
from r2ec.etl.files import InputFile, find_files, require_columns
from r2ec.etl.inputs import InteractionInput, TimeUnit
from r2ec.etl.packing import OUTSIDE_WINDOW
from r2ec.etl.rows import read_rows

OPTIONS = {
    "user": "--user-column",
    "item": "--item-column",
    "rating": "--rating-column",
    "time": "--time-column",
    "order": "--order-by",
}
LARGEST_RATING = 1e9
_MICROS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_EARLIEST_MICROS = 1  # times at or before 1970-01-01T00:00:00 are a missing value or a wrong unit
_LATEST_MICROS = 4_102_444_800_000_000  # 2100-01-01


def find_interactions(spark: SparkSession, log: InteractionInput) -> list[InputFile]:
    """The files of the log; errors for missing files and columns, and for a log without a row."""
    files = find_files(
        spark, log.paths, format=log.format, delimiter=log.delimiter, option="--interactions"
    )
    require_columns(files, log.columns(), log.required(), OPTIONS)
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
    rows = read_rows(spark, files, log.columns())
    typed = rows.select(
        "place",
        "line",
        "reason",
        F.trim("user").alias("user_id"),
        F.trim("item").alias("item_id"),
        F.trim("rating").alias("rating_text"),
        F.trim("time").alias("time_text"),
        F.expr("try_cast(trim(rating) AS DOUBLE)").alias("rating"),
        F.coalesce("typed_time", _micros(log.time_unit)).alias("time"),
        *_order_values(log),
    )
    rejected = typed.withColumn("reason", F.coalesce("reason", _reason()))
    return rejected.select(
        "user_id",
        "item_id",
        F.when(F.col("reason").isNull(), F.col("rating")).cast("float").alias("rating"),
        "time",
        *order_columns(log),
        "place",
        "line",
        "reason",
    )


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


def with_item_index(interactions: DataFrame, catalog: DataFrame) -> DataFrame:
    """Add the catalog's `item_index`; an event of an item that is not there is `unknown_item`."""
    known = catalog.select("item_id", "item_index")
    joined = interactions.join(known, on="item_id", how="left")
    unknown = F.col("reason").isNull() & F.col("item_index").isNull()
    return joined.withColumn("reason", F.when(unknown, "unknown_item").otherwise(F.col("reason")))


def _micros(unit: TimeUnit) -> Column:
    if unit == "iso":
        return F.expr("unix_micros(try_cast(trim(time) AS TIMESTAMP))")
    exact = f"try_multiply(try_cast(trim(time) AS BIGINT), {_MICROS[unit]}L)"
    decimal = f"try_cast(round(try_cast(trim(time) AS DOUBLE) * {_MICROS[unit]}) AS BIGINT)"
    return F.expr(f"coalesce({exact}, {decimal})")


def _order_values(log: InteractionInput) -> list[Column]:
    if not log.order_by:
        return []
    number = F.expr("try_cast(trim(`order`) AS DOUBLE)")
    return [number.alias("order_number"), F.col("order").alias("order_text")]


def _reason() -> Column:
    """The first thing that is wrong with a row; null when it is an event."""
    rating, time = F.col("rating"), F.col("time")
    has_rating = F.coalesce(F.col("rating_text"), F.lit("")) != ""
    good_rating = F.coalesce(F.abs(rating) <= LARGEST_RATING, F.lit(False)) & ~F.isnan(rating)
    checks = [
        (_blank("user_id"), "missing_user"),
        (_blank("item_id"), "missing_item"),
        (_blank("time_text"), "missing_time"),
        (time.isNull(), "bad_time"),
        (~time.between(_EARLIEST_MICROS, _LATEST_MICROS), "time_out_of_range"),
        (has_rating & ~good_rating, "bad_rating"),
    ]
    first, *rest = [F.when(check, reason) for check, reason in checks]
    return reduce(lambda found, check: F.coalesce(found, check), rest, first)


def _blank(column: str) -> Column:
    return F.coalesce(F.col(column), F.lit("")) == ""
