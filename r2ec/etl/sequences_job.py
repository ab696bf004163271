"""The job behind `jobs/build_sequences.py`: the log in; sequences, histories, quarantine out."""

import time
from dataclasses import dataclass
from datetime import UTC, date, datetime

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from r2ec.errors import GateError, NotReadyError
from r2ec.etl.audits import run_audits
from r2ec.etl.files import InputFile
from r2ec.etl.histories import build_histories, end_of_day
from r2ec.etl.inputs import InteractionInput
from r2ec.etl.interactions import (
    DUPLICATE,
    OUTSIDE_WINDOW,
    find_interactions,
    in_log_order,
    order_columns,
    read_interactions,
    with_item_index,
    within,
)
from r2ec.etl.kcore import k_core
from r2ec.etl.quarantine import MAX_QUARANTINE_SHARE, check_share, quarantine_rows
from r2ec.etl.sequences import build_sequences, target_times
from r2ec.etl.session import fit_partitions
from r2ec.etl.splits import SplitCuts, find_cuts
from r2ec.etl.staging import Staging, open_staging
from r2ec.etl.summary import JobSummary, run_id
from r2ec.schemas import SPLITS
from r2ec.storage import Warehouse

JOB = "build_sequences"


@dataclass(frozen=True, kw_only=True, slots=True)
class SequencesJob:
    """What to build: `dates` are the days of the histories (the log's last one by default).

    `since` and `until` bound the log in microseconds, the first inside, the second outside.
    """

    interactions: InteractionInput
    warehouse: str
    catalog_version: str | None = None
    dates: tuple[date, ...] = ()
    window: int = 20
    min_user_events: int = 1
    min_item_events: int = 1
    since: int | None = None
    until: int | None = None
    strict_time: bool = False
    split_ratio: tuple[float, float, float] = (0.8, 0.1, 0.1)
    max_quarantine_share: float = MAX_QUARANTINE_SHARE


@dataclass(frozen=True, kw_only=True, slots=True)
class _LogCounts:
    """Rows of the log by what became of them, and the times of the first and last event."""

    num_events: int
    first_time: int | None
    last_time: int | None
    num_duplicates: int
    num_outside: int
    rejected: dict[str, int]

    @property
    def num_rows(self) -> int:
        left_out = self.num_duplicates + self.num_outside + sum(self.rejected.values())
        return self.num_events + left_out


def run(spark: SparkSession, job: SequencesJob) -> JobSummary:
    """Build the tables; `NotReadyError`, `UsageError` or `GateError` as the case is."""
    started = time.perf_counter()
    warehouse = Warehouse(job.warehouse)
    version, catalog = _load_catalog(spark, warehouse, job.catalog_version)
    files = find_interactions(spark, job.interactions)
    staging = open_staging(warehouse, JOB)
    fit_partitions(spark, sum(file.num_plain_bytes for file in files))
    order = order_columns(job.interactions)
    log = with_item_index(
        within(read_interactions(spark, files, job.interactions), job.since, job.until), catalog
    )
    cached = [in_log_order(log, order).persist(StorageLevel.MEMORY_AND_DISK)]
    try:
        counts = _count(cached[0])
        dates = _dates(job, counts)
        quarantine = _quarantine(job, staging, files, cached[0], counts, dates)
        events = cached[0].where(F.col("reason").isNull()).drop("reason", "line")
        if job.min_user_events > 1 or job.min_item_events > 1:
            core = k_core(
                events, min_user_events=job.min_user_events, min_item_events=job.min_item_events
            )
            events = core.persist(StorageLevel.MEMORY_AND_DISK)
            cached.append(events)
        cuts = _cuts(events, job, order)
        places = _write(job, staging, events, cuts, dates, order)
        tables = _staged_tables(spark, staging, places) | {
            "catalog": catalog.withColumn("version", F.lit(version).cast("date"))
        }
        num_audits = run_audits(spark, tables, ["sequences", "histories"])
        figures, num_kept = _figures(tables, events, cuts, dates)
        staging.publish([*places, quarantine])
    finally:
        staging.discard()
        for rows in cached:
            rows.unpersist()
    return JobSummary(
        job=JOB,
        target="histories " + ", ".join(str(day) for day in dates),
        rows_in=counts.num_rows,
        rows_kept=num_kept,
        num_duplicates=counts.num_duplicates,
        num_filtered={
            "outside the time window": counts.num_outside,
            "dropped by k-core": counts.num_events - num_kept,
        },
        num_rejected=counts.rejected,
        figures=figures,
        num_audits=num_audits,
        seconds=time.perf_counter() - started,
    )


def _load_catalog(
    spark: SparkSession, warehouse: Warehouse, version: str | None
) -> tuple[str, DataFrame]:
    versions = warehouse.partitions("catalog", "version")
    wanted = version or (versions[-1] if versions else None)
    if wanted is None or wanted not in versions:
        have = f"there is: {', '.join(versions[-5:])}" if versions else "there is none yet"
        raise NotReadyError(
            f"no catalog version {wanted or 'at all'} in {warehouse.path()} ({have}); "
            "build it with: spark-submit jobs/build_catalog.py"
        )
    return wanted, spark.read.parquet(warehouse.uri("catalog", f"version={wanted}"))


def _count(log: DataFrame) -> _LogCounts:
    counted = log.groupBy("reason").agg(
        F.count(F.lit(1)).alias("num_rows"),
        F.min("time").alias("first_time"),
        F.max("time").alias("last_time"),
    )
    by_reason = {row["reason"]: row for row in counted.collect()}
    kept = by_reason.pop(None, None)
    counts = {reason: row["num_rows"] for reason, row in by_reason.items()}
    return _LogCounts(
        num_events=kept["num_rows"] if kept else 0,
        first_time=kept["first_time"] if kept else None,
        last_time=kept["last_time"] if kept else None,
        num_duplicates=counts.pop(DUPLICATE, 0),
        num_outside=counts.pop(OUTSIDE_WINDOW, 0),
        rejected=counts,
    )


def _dates(job: SequencesJob, counts: _LogCounts) -> tuple[date, ...]:
    """The days to write; NotReadyError for a log without rows or a day before its first event."""
    if counts.num_rows == 0:
        raise NotReadyError(
            f"the log is empty: no row in {' '.join(job.interactions.paths)}; "
            "give files with events by --interactions"
        )
    if counts.first_time is None or counts.last_time is None:
        return job.dates
    first, last = (
        datetime.fromtimestamp(value / 1e6, UTC) for value in (counts.first_time, counts.last_time)
    )
    for day in job.dates:
        if end_of_day(day) <= counts.first_time:
            raise NotReadyError(
                f"--date {day} lies before the first event of the log ({first:%Y-%m-%d %H:%M:%S} "
                f"UTC): there is no history to write; give a day up to {last:%Y-%m-%d} or later"
            )
    return job.dates or (last.date(),)


def _quarantine(
    job: SequencesJob,
    staging: Staging,
    files: list[InputFile],
    log: DataFrame,
    counts: _LogCounts,
    dates: tuple[date, ...],
) -> tuple[str, ...]:
    """Stage the rejected rows; publish them alone and raise GateError when they are too many."""
    day = max(dates).isoformat() if dates else datetime.now(UTC).date().isoformat()
    place = ("quarantine", f"job={JOB}", f"date={day}")
    if counts.rejected:
        rejected = log.where(F.col("line").isNotNull() & F.col("reason").isNotNull())
        rejected = rejected.where(F.col("reason") != DUPLICATE)
        rows = quarantine_rows(rejected, files, run_id(JOB, day, job))
        staging.write(rows, *place)
    try:
        limit = job.max_quarantine_share
        where = f"{'/'.join(place)}"
        check_share(counts.rejected, num_rows=counts.num_rows, limit=limit, where=where)
        if not counts.num_events and not counts.num_outside:
            raise GateError(f"all {counts.num_rows} rows of the log were rejected: see {where}")
    except GateError:
        staging.publish([place])
        raise
    if not counts.num_events:
        raise NotReadyError("no event of the log lies between --since and --until")
    return place


def _cuts(events: DataFrame, job: SequencesJob, order: list[str]) -> SplitCuts:
    targets = target_times(events, order=order, strict_time=job.strict_time)
    if targets.isEmpty():
        raise NotReadyError(
            "no user of the log has an event before another one, so there is no sequence; "
            "lower --min-user-events and --min-item-events, or give a longer log"
        )
    return find_cuts(targets, job.split_ratio)


def _write(
    job: SequencesJob,
    staging: Staging,
    events: DataFrame,
    cuts: SplitCuts,
    dates: tuple[date, ...],
    order: list[str],
) -> list[tuple[str, ...]]:
    sequences = build_sequences(
        events, window=job.window, order=order, strict_time=job.strict_time, cuts=cuts
    )
    staging.write(sequences, "sequences", partition_by="split")
    for day in dates:
        histories = build_histories(events, day, window=job.window, order=order)
        staging.write(histories, "histories", f"date={day}")
    return [
        *(("sequences", f"split={split}") for split in SPLITS),
        *(("histories", f"date={day}") for day in dates),
    ]


def _staged_tables(
    spark: SparkSession, staging: Staging, places: list[tuple[str, ...]]
) -> dict[str, DataFrame]:
    histories = spark.read.parquet(staging.uri("histories"))
    return {
        "sequences": spark.read.parquet(staging.uri("sequences")),
        "histories": histories.withColumn("date", F.col("date").cast("date")),
    }


def _figures(
    tables: dict[str, DataFrame], events: DataFrame, cuts: SplitCuts, dates: tuple[date, ...]
) -> tuple[dict[str, int | str], int]:
    by_user = events.groupBy("user_id").count()
    row = by_user.agg(F.count(F.lit(1)), F.sum("count")).first()
    num_users, num_events = (row[0], row[1]) if row else (0, 0)
    by_split = {
        r["split"]: r["count"] for r in tables["sequences"].groupBy("split").count().collect()
    }
    by_date = {r["date"]: r["count"] for r in tables["histories"].groupBy("date").count().collect()}
    sequences = "/".join(str(by_split.get(split, 0)) for split in SPLITS)
    ends = [
        f"{_second(value):%Y-%m-%dT%H:%M:%SZ}" for value in (cuts.train_until, cuts.valid_until)
    ]
    figures: dict[str, int | str] = {
        "users": num_users,
        "items": events.select("item_index").distinct().count(),
        "sequences train/valid/test": sequences,
        "train until": ends[0],
        "valid until": ends[1],
        "histories": "/".join(str(by_date.get(day, 0)) for day in dates),
    }
    return figures, num_events


def _second(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1e6, UTC)
