"""The log in one shuffle: each user's events together, in the order of the log, as chunks."""

import json
from collections import Counter
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from r2ec.etl.arrow_map import map_in_arrow
from r2ec.etl.packing import NO_ERRORS, PACKED_SCHEMA, REJECTED_SCHEMA, packer, unpack_rejected


@dataclass(frozen=True, kw_only=True, slots=True)
class LogCounts:
    """Rows of the log by what became of them; times of the first and last event (microseconds).

    `left_out` has the number of rows by reason, of those put to quarantine and of those that are
    not errors.
    """

    num_events: int
    first_time: int | None
    last_time: int | None
    num_duplicates: int
    left_out: dict[str, int]

    @property
    def num_rows(self) -> int:
        """All rows of the input."""
        return self.num_events + self.num_duplicates + sum(self.left_out.values())

    @property
    def rejected(self) -> dict[str, int]:
        """Rows put to quarantine, by reason."""
        return {name: rows for name, rows in self.left_out.items() if name not in NO_ERRORS}


def pack_log(
    interactions: DataFrame, order: list[str], *, max_user_events_per_day: int | None = None
) -> DataFrame:
    """Chunk rows (`PACKED_SCHEMA`) of the log, an exact duplicate of an earlier row left out.

    An exact duplicate has user, item, rating and time of an earlier row. Rejected rows come along
    under keys of their own, with their lines; the lines of events only where robots are looked for.
    """
    is_event = F.col("reason").isNull()
    needs_line = F.lit(True) if max_user_events_per_day else ~is_event
    num_partitions = int(interactions.sparkSession.conf.get("spark.sql.shuffle.partitions") or 1)
    user = F.when(is_event, F.col("user_id"))
    columns = ["item_index", "rating", "time", *order, "place"]
    line = F.when(needs_line, F.col("line")).alias("line")
    by_user = interactions.select(user.alias("user_id"), *columns, line, "reason").repartition(
        num_partitions, F.coalesce("user_id", F.col("place").cast("string"))
    )
    # Sorting by one number is far quicker than by users and times; Arrow sorts within the chunks.
    user_hash = F.when(F.col("user_id").isNotNull(), F.xxhash64("user_id"))
    together = by_user.withColumn("user_hash", user_hash).sortWithinPartitions("user_hash")
    return map_in_arrow(together, packer(order, max_user_events_per_day), PACKED_SCHEMA)


def count_rows(packed: DataFrame) -> LogCounts:
    """What became of the log's rows."""
    figures = packed.select("size", "num_duplicates", "reasons", "first_time", "last_time")
    rows = figures.collect()
    left_out: Counter[str] = Counter()
    for row in rows:
        left_out.update(json.loads(row["reasons"]))
    return LogCounts(
        num_events=sum(row["size"] for row in rows),
        first_time=min((row["first_time"] for row in rows if row["size"]), default=None),
        last_time=max((row["last_time"] for row in rows if row["size"]), default=None),
        num_duplicates=sum(row["num_duplicates"] for row in rows),
        left_out=dict(left_out),
    )


def rejected_rows(packed: DataFrame) -> DataFrame:
    """The rows for the quarantine: `place`, `line`, `reason`."""
    rejected = packed.where(F.col("rejected").isNotNull()).select("rejected")
    return map_in_arrow(rejected, unpack_rejected, REJECTED_SCHEMA)
