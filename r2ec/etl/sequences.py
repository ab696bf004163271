"""Sequences: each event of a user with the events before it."""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from r2ec.etl.splits import SplitCuts


def build_sequences(
    events: DataFrame, *, window: int, order: list[str], strict_time: bool, cuts: SplitCuts
) -> DataFrame:
    """One row per (user, target) with at least one event before the target, plus `split`.

    The history is the user's last `window` events before the target in the order of the log (time,
    order columns, place); with `strict_time` before the target's time. `events` lie together by
    `user_id` in that order. `sequence_id` is the target's place in the input.
    """
    log_order = Window.partitionBy("user_id").orderBy("time", *order, "place")
    past = F.collect_list(F.struct("item_index", "rating", "time"))
    history = past.over(log_order.rowsBetween(-window, -1))
    with_history = events.withColumn("history", history)
    if strict_time:
        # Up to its time, the history of all events of one time is that of the first of them.
        same_time = Window.partitionBy("user_id", "time").orderBy(*order, "place")
        first = F.first("history").over(same_time.rowsBetween(Window.unboundedPreceding, 0))
        with_history = with_history.withColumn("history", first)
    return with_history.where(F.size("history") > 0).select(
        F.col("place").alias("sequence_id"),
        "user_id",
        *history_columns(F.col("history")),
        F.col("item_index").alias("target_item_index"),
        F.col("rating").alias("target_rating"),
        F.timestamp_micros("time").alias("target_time"),
        cuts.split_of(F.col("time")).alias("split"),
    )


def mark_targets(events: DataFrame, *, order: list[str], strict_time: bool) -> DataFrame:
    """Each event's `user_id`, `time`, `is_first` of its user, and `is_target`: has a history."""
    log_order = Window.partitionBy("user_id").orderBy("time", *order, "place")
    is_first = F.row_number().over(log_order) == 1
    first_time = F.first("time").over(log_order)
    is_target = F.col("time") > first_time if strict_time else ~is_first
    return events.select(
        "user_id", "time", is_first.alias("is_first"), is_target.alias("is_target")
    )


def history_columns(history: Column) -> list[Column]:
    """The three history lists of the tables from one list of (item_index, rating, time)."""
    times = F.transform(history["time"], F.timestamp_micros)
    return [
        history["item_index"].alias("history_item_index"),
        history["rating"].alias("history_rating"),
        times.alias("history_time"),
    ]
