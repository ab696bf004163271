"""The k-core of the log: only users and items with enough events among themselves."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from r2ec.etl.staging import Staging

_ITEMS = "item_index bigint"


def k_core(
    events: DataFrame, staging: Staging, *, min_user_events: int, min_item_events: int
) -> DataFrame:
    """The largest set of events in which every user and item has at least that many.

    `events` lie together by `user_id` (see `in_log_order`) and stay so. Between rounds only the
    surviving items move: a round drops events of lost items, then short users, and counts items
    again. The items only ever shrink, so a round that loses none is the fixed point. Each round's
    items are staged: a plan made of all rounds would grow beyond the driver's memory.
    """
    core = _long_users(events, min_user_events)
    if min_item_events <= 1:
        return core
    num_kept, round_number = -1, 0
    while True:
        place = ("k_core", f"round={round_number}")
        staging.write(_popular_items(core, min_item_events), *place)
        num_still_kept = staging.num_rows(*place)
        if num_still_kept == num_kept:
            return core
        kept = events.sparkSession.read.schema(_ITEMS).parquet(staging.uri(*place))
        core = _long_users(events.join(kept, on="item_index", how="left_semi"), min_user_events)
        num_kept, round_number = num_still_kept, round_number + 1


def _long_users(events: DataFrame, min_events: int) -> DataFrame:
    if min_events <= 1:
        return events
    num_events = F.count(F.lit(1)).over(Window.partitionBy("user_id"))
    counted = events.withColumn("num_events", num_events)
    return counted.where(F.col("num_events") >= min_events).drop("num_events")


def _popular_items(events: DataFrame, min_events: int) -> DataFrame:
    counts = events.groupBy("item_index").agg(F.count(F.lit(1)).alias("num_events"))
    return counts.where(F.col("num_events") >= min_events).select("item_index")
