"""The job behind `jobs/build_sequences.py`: the log in; sequences, histories, quarantine out."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from r2ec.errors import NotReadyError
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
from r2ec.etl.quarantine import MAX_QUARANTINE_SHARE, Quarantine
from r2ec.etl.sequences import build_sequences, mark_targets
from r2ec.etl.session import fit_partitions
from r2ec.etl.splits import SplitCuts, day_of, find_cuts
from r2ec.etl.staging import Staging, open_staging
from r2ec.etl.summary import JobSummary, run_id
from r2ec.etl.tables import conform, keep, read_table
from r2ec.schemas import CATALOG, HISTORIES, SEQUENCES, SPLITS
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _CoreCounts:
    """What is left after the k-core; a target is an event with a history."""

    num_events: int
    num_users: int
    targets_by_day: dict[int, int]


def run(spark: SparkSession, job: SequencesJob) -> JobSummary:
    """Build the tables; `NotReadyError`, `UsageError` or `GateError` as the case is."""
    started = time.perf_counter()
    warehouse = Warehouse(job.warehouse)
    version, catalog = _load_catalog(spark, warehouse, job.catalog_version)
    files = find_interactions(spark, job.interactions)
    staging = open_staging(warehouse, JOB)
    fit_partitions(spark, sum(file.num_plain_bytes for file in files))
    order = order_columns(job.interactions)
    with ExitStack() as stack:
        stack.callback(staging.discard)
        read = within(read_interactions(spark, files, job.interactions), job.since, job.until)
        log = keep(stack, in_log_order(with_item_index(read, catalog), order))
        counts = _count(log)
        dates = _dates(job, counts)
        quarantine = _quarantine(job, staging, files, log, counts, dates)

        events = log.where(F.col("reason").isNull()).drop("reason", "line")
        if job.min_user_events > 1 or job.min_item_events > 1:
            limits = {"min_user_events": job.min_user_events}
            limits["min_item_events"] = job.min_item_events
            events = keep(stack, k_core(events, staging, **limits))
        marked = mark_targets(events, order=order, strict_time=job.strict_time)
        core_counts = _count_by_day(marked)
        target_times = marked.where("is_target").select("time")
        cuts = find_cuts(core_counts.targets_by_day, target_times, job.split_ratio)
        _write(job, staging, events, cuts, dates, order)

        tables = {
            "sequences": read_table(spark, SEQUENCES, staging.uri("sequences"), "split"),
            "histories": read_table(spark, HISTORIES, staging.uri("histories"), "date"),
            "catalog": catalog.withColumn("version", F.lit(version).cast("date")),
        }
        num_audits = run_audits(spark, tables, ["sequences", "histories"])
        figures = _figures(staging, events, core_counts, cuts, dates)
        staging.publish([*_places(dates), quarantine])
    return JobSummary(
        job=JOB,
        target="histories " + ", ".join(str(day) for day in dates),
        rows_in=counts.num_rows,
        rows_kept=core_counts.num_events,
        num_duplicates=counts.num_duplicates,
        num_filtered={
            "outside the time window": counts.num_outside,
            "dropped by k-core": counts.num_events - core_counts.num_events,
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
    return wanted, read_table(spark, CATALOG, warehouse.uri("catalog", f"version={wanted}"))


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
    """Stage the rejected rows and check their share; returns the partition."""
    day = max(dates).isoformat() if dates else datetime.now(UTC).date().isoformat()
    quarantine = Quarantine(
        job=JOB, day=day, run_id=run_id(JOB, day, job), max_share=job.max_quarantine_share
    )
    if counts.rejected:
        reasons = list(counts.rejected)
        quarantine.stage(staging, log.where(F.col("reason").isin(reasons)), files)
    quarantine.check(staging, counts.rejected, counts.num_rows)
    if not counts.num_events:
        raise NotReadyError("no event of the log lies between --since and --until")
    return quarantine.place


def _count_by_day(marked: DataFrame) -> _CoreCounts:
    counted = marked.groupBy(day_of(F.col("time")).alias("day")).agg(
        F.count(F.lit(1)).alias("num_events"),
        F.count_if("is_first").alias("num_users"),
        F.count_if("is_target").alias("num_targets"),
    )
    rows = counted.collect()
    counts = _CoreCounts(
        num_events=sum(row["num_events"] for row in rows),
        num_users=sum(row["num_users"] for row in rows),
        targets_by_day={row["day"]: row["num_targets"] for row in rows if row["num_targets"]},
    )
    if not counts.targets_by_day:
        raise NotReadyError(
            "no user of the log has an event before another one, so there is no sequence; "
            "lower --min-user-events and --min-item-events, or give a longer log"
        )
    return counts


def _write(
    job: SequencesJob,
    staging: Staging,
    events: DataFrame,
    cuts: SplitCuts,
    dates: tuple[date, ...],
    order: list[str],
) -> None:
    sequences = build_sequences(
        events, window=job.window, order=order, strict_time=job.strict_time, cuts=cuts
    )
    staging.write(conform(sequences, SEQUENCES, "split"), "sequences", partition_by="split")
    for day in dates:
        histories = build_histories(events, day, window=job.window, order=order)
        staging.write(conform(histories, HISTORIES), "histories", f"date={day}")


def _places(dates: tuple[date, ...]) -> list[tuple[str, ...]]:
    sequences = [("sequences", f"split={split}") for split in SPLITS]
    return [*sequences, *(("histories", f"date={day}") for day in dates)]


def _figures(
    staging: Staging,
    events: DataFrame,
    counts: _CoreCounts,
    cuts: SplitCuts,
    dates: tuple[date, ...],
) -> dict[str, int | str]:
    """What the summary says of the tables; every target must have been written."""
    by_split = [staging.num_rows("sequences", f"split={split}") for split in SPLITS]
    by_date = [staging.num_rows("histories", f"date={day}") for day in dates]
    num_targets = sum(counts.targets_by_day.values())
    if 0 in by_date:
        raise NotReadyError(
            f"after --since and the k-core no event is left before the end of "
            f"{dates[by_date.index(0)]}: there is no history to write; give a later --date"
        )
    assert sum(by_split) == num_targets, f"{num_targets} targets, {by_split} sequences written"
    return {
        "users": counts.num_users,
        "items": events.select("item_index").distinct().count(),
        "sequences train/valid/test": "/".join(map(str, by_split)),
        "train until": f"{_moment(cuts.train_until):%Y-%m-%dT%H:%M:%SZ}",
        "valid until": f"{_moment(cuts.valid_until):%Y-%m-%dT%H:%M:%SZ}",
        "histories": "/".join(map(str, by_date)),
    }


def _moment(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1e6, UTC)
