"""What the catalog takes from the log: the items that it has events of, and since when."""

from dataclasses import dataclass
from datetime import UTC, datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from r2ec.errors import GateError, NotReadyError
from r2ec.etl.files import InputFile
from r2ec.etl.inputs import InteractionInput
from r2ec.etl.interactions import read_interactions
from r2ec.etl.quarantine import reasons_text
from r2ec.etl.reasons import REMEDIES

_COLUMNS = "item_id string, reason string, time bigint, last_time bigint, num_rows bigint"


@dataclass(frozen=True, kw_only=True, slots=True)
class LogItemCounts:
    """Events of the log, rows that are none by reason, the last event's time (microseconds)."""

    num_events: int
    rejected: dict[str, int]
    last_time: int | None

    def figures(self) -> dict[str, int | str]:
        """For the summary; the rows themselves are put to quarantine by `build_sequences`."""
        num_rejected = sum(self.rejected.values())
        reasons = f" ({reasons_text(self.rejected)})" if num_rejected else ""
        return {"events of the log": self.num_events, "rejected ones": f"{num_rejected}{reasons}"}


def read_log_items(
    spark: SparkSession, files: list[InputFile], log: InteractionInput | None
) -> DataFrame:
    """Each `item_id` with the `time` of its first event and its `last_time`, in microseconds.

    And for each `reason` against rows of the log one row without an item; `num_rows` of both.
    """
    if log is None:
        return spark.createDataFrame([], _COLUMNS)
    rows = read_interactions(spark, files, log)
    item = F.when(F.col("reason").isNull(), F.col("item_id")).alias("item_id")
    return rows.groupBy(item, "reason").agg(
        F.min("time").alias("time"),
        F.max("time").alias("last_time"),
        F.count(F.lit(1)).alias("num_rows"),
    )


def check_log(items: DataFrame, log: InteractionInput | None) -> LogItemCounts:
    """The counts of `read_log_items`; GateError when the log has rows and none is an event."""
    totals = items.groupBy("reason").agg(
        F.sum("num_rows").alias("num_rows"), F.max("last_time").alias("last_time")
    )
    rows = {row["reason"]: row for row in totals.collect()}
    events = rows.pop(None, None)
    rejected = {reason: int(row["num_rows"]) for reason, row in rows.items()}
    if log is not None and events is None and rejected:
        reason = max(sorted(rejected), key=lambda reason: rejected[reason])
        raise GateError(
            f"none of the {sum(rejected.values())} rows of the log {log.where()} is an event "
            f"({reasons_text(rejected)}); {reason}: {REMEDIES.get(reason, '')}"
        )
    return LogItemCounts(
        num_events=int(events["num_rows"]) if events else 0,
        rejected=rejected,
        last_time=events["last_time"] if events else None,
    )


def last_day(counts: LogItemCounts) -> str:
    """The ISO day of the log's last event; NotReadyError for a log without one."""
    if counts.last_time is None:
        raise NotReadyError(
            "the log has no row, so the catalog has no day for its version: "
            "check --interactions, or give --version"
        )
    return datetime.fromtimestamp(counts.last_time / 1e6, UTC).date().isoformat()
