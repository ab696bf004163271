"""The k-core of the log: only users and items with enough events among themselves."""

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F


def k_core(events: DataFrame, *, min_user_events: int, min_item_events: int) -> DataFrame:
    """The largest set of events in which every user and item has at least that many.

    `events` lie together by `user_id` (see `in_log_order`) and stay so. Between rounds only the
    surviving items move: a round drops events of lost items, then short users, and counts items
    again. The items only ever shrink, so a round that loses none is the fixed point.
    """
    if min_user_events <= 1 and min_item_events <= 1:
        return events
    core = _long_users(events, min_user_events)
    kept = _popular_items(core, min_item_events)
    num_kept = kept.count()
    while True:
        core = _long_users(events.join(kept, on="item_index", how="left_semi"), min_user_events)
        still_kept = _popular_items(core, min_item_events)
        num_still_kept = still_kept.count()
        if num_still_kept == num_kept:
            still_kept.unpersist()
            return core
        kept.unpersist()
        kept, num_kept = still_kept, num_still_kept


def _long_users(events: DataFrame, min_events: int) -> DataFrame:
    if min_events <= 1:
        return events
    num_events = F.count(F.lit(1)).over(Window.partitionBy("user_id"))
    counted = events.withColumn("num_events", num_events)
    return counted.where(F.col("num_events") >= min_events).drop("num_events")


def _popular_items(events: DataFrame, min_events: int) -> DataFrame:
    counts = events.groupBy("item_index").agg(F.count(F.lit(1)).alias("num_events"))
    popular = counts.where(F.col("num_events") >= min_events).select("item_index")
    return popular.persist(StorageLevel.MEMORY_AND_DISK)
