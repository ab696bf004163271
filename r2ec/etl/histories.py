"""Histories: what is known of each user at the end of a day."""

from datetime import UTC, date, datetime, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from r2ec.etl.sequences import history_columns


def end_of_day(day: date) -> int:
    """Microseconds of the first moment after a day (UTC)."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    return int(midnight.timestamp()) * 1_000_000


def build_histories(events: DataFrame, day: date, *, window: int, order: list[str]) -> DataFrame:
    """One row per user with an event before the end of the day: the last `window` of them.

    Oldest first, sorted by `user_id`. `history_hash` is equal exactly when the history is.
    """
    log_order = Window.partitionBy("user_id").orderBy("time", *order, "place")
    all_rows = log_order.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    position = F.row_number().over(log_order)
    known = events.where(F.col("time") < end_of_day(day)).select(
        "user_id",
        "item_index",
        "rating",
        "time",
        position.alias("position"),
        F.count(F.lit(1)).over(all_rows).alias("num_events"),
    )
    latest = known.where(F.col("position") > F.col("num_events") - window)
    entries = F.sort_array(F.collect_list(F.struct("position", "item_index", "rating", "time")))
    histories = latest.groupBy("user_id").agg(entries.alias("history"))
    return histories.select(
        "user_id",
        *history_columns(F.col("history")),
        history_hash(F.col("history")).alias("history_hash"),
    ).orderBy("user_id")


def history_hash(history: Column) -> Column:
    """SHA-256 of the items, ratings and times in their order, as hexadecimal text."""
    texts = [
        F.array_join(F.transform(history[name], lambda value: value.cast("string")), ",", "-")
        for name in ("item_index", "rating", "time")
    ]
    return F.sha2(F.concat_ws(";", *texts), 256)
