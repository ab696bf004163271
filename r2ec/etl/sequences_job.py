"""The job behind `jobs/build_sequences.py`: the log in; sequences, histories, quarantine out."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, date, datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from r2ec.errors import NotReadyError
from r2ec.etl.audits import run_audits
from r2ec.etl.history_state import stage_state
from r2ec.etl.increment import last_times
from r2ec.etl.increment_job import run_increment
from r2ec.etl.interactions import find_interactions
from r2ec.etl.kcore import Core, k_core
from r2ec.etl.ordered_log import LogCounts, count_rows
from r2ec.etl.packing import DROPPED_ITEM, OUTSIDE_WINDOW
from r2ec.etl.register import check_names, register
from r2ec.etl.sequences import WindowSettings, end_of_day, write_histories, write_sequences
from r2ec.etl.sequences_input import (
    JOB,
    TABLES,
    Place,
    SequencesJob,
    load_catalog,
    num_items,
    read_log,
    stage_quarantine,
    state_of,
)
from r2ec.etl.session import fit_partitions
from r2ec.etl.splits import SplitCuts, TargetCounts, count_targets, find_cuts
from r2ec.etl.staging import Staging, open_staging
from r2ec.etl.summary import JobSummary, StageClock
from r2ec.etl.tables import keep, read_table
from r2ec.lock import JobLock
from r2ec.schemas import HISTORIES, SEQUENCES, SPLITS
from r2ec.storage import Warehouse


def run(spark: SparkSession, job: SequencesJob) -> JobSummary:
    """Build the tables; `NotReadyError`, `UsageError` or `GateError` as the case is.

    An incremental job that cannot promise what a full build gives says why, and builds in full.
    """
    if job.register:
        check_names(spark, Warehouse(job.warehouse), job.register, TABLES)
    if job.incremental:
        found = run_increment(spark, job)
        if isinstance(found, JobSummary):
            return found
        print(f"not incremental: {found}; building in full", file=sys.stderr, flush=True)
    return build_all(spark, job)


def build_all(spark: SparkSession, job: SequencesJob) -> JobSummary:
    """Build sequences and histories from the whole log."""
    started = time.perf_counter()
    clock = StageClock()
    warehouse = Warehouse(job.warehouse)
    with clock.stage("find"):
        version, catalog = load_catalog(spark, warehouse, job.catalog_version)
        num_catalog_items = num_items(warehouse, version)
        files = find_interactions(spark, job.interactions)
    fit_partitions(spark, sum(file.num_plain_bytes for file in files))
    with ExitStack() as stack:
        lock = stack.enter_context(JobLock(warehouse, JOB))
        staging = open_staging(warehouse, JOB, lock)
        stack.callback(staging.discard)
        packed = keep(stack, read_log(spark, job, files, catalog))
        with clock.stage("read"):
            counts = count_rows(packed)
        dates = _dates(job, counts)
        quarantine, examples = stage_quarantine(job, staging, files, packed, counts, dates)
        with clock.stage("k-core"):
            core, num_core_items = k_core(
                packed,
                num_catalog_items,
                min_user_events=job.min_user_events,
                min_item_events=job.min_item_events,
            )
        with clock.stage("cuts"):
            targets = _count_targets(packed, core, job)
            cuts = find_cuts(packed, core, targets, job.split_ratio, strict_time=job.strict_time)
        with clock.stage("write"):
            num_rows = _write(job, staging, packed, core, cuts, dates, targets)
            _check_rows(num_rows, dates, targets)
            made_from = state_of(job, num_catalog_items, counts, last_times(packed, files))
            for day in dates:
                stage_state(staging, day, made_from)
        with clock.stage("audit"):
            tables = {
                "sequences": read_table(spark, SEQUENCES, staging.uri("sequences"), "split"),
                "histories": read_table(spark, HISTORIES, staging.uri("histories"), "date"),
                "catalog": catalog.withColumn("version", F.lit(version).cast("date")),
            }
            num_audits = run_audits(
                spark, tables, ["sequences", "histories"], strict_time=job.strict_time
            )
        with clock.stage("publish"):
            num_written = staging.num_bytes()
            staging.publish([*num_rows, *quarantine])
    if job.register:
        register(spark, warehouse, job.register, TABLES)
    return JobSummary(
        job=JOB,
        target="histories " + ", ".join(str(day) for day in dates),
        rows_in=counts.num_rows,
        rows_kept=targets.num_events,
        num_duplicates=counts.num_duplicates,
        num_filtered={
            "outside the time window": counts.left_out.get(OUTSIDE_WINDOW, 0),
            "of items that the catalog lacks": counts.left_out.get(DROPPED_ITEM, 0),
            "dropped by k-core": counts.num_events - targets.num_events,
        },
        num_rejected=counts.rejected,
        examples=examples,
        figures={
            "users": targets.num_users,
            "items": num_core_items,
            "sequences train/valid/test": "/".join(
                str(num_rows["sequences", f"split={split}"]) for split in SPLITS
            ),
            "last event": _iso(counts.last_time),
            "train until": _iso(cuts.train_until),
            "valid until": _iso(cuts.valid_until),
            "histories": "/".join(str(num_rows["histories", f"date={day}"]) for day in dates),
            "bytes in": sum(file.num_bytes for file in files),
            "bytes written": num_written,
        },
        warnings=_empty_splits(num_rows, job.split_ratio),
        num_audits=num_audits,
        stages=clock.seconds,
        seconds=time.perf_counter() - started,
    )


def _empty_splits(num_rows: dict[Place, int], ratio: tuple[float, float, float]) -> tuple[str, ...]:
    """A word for each split that was asked for and got no row: no cut divides a timestamp."""
    return tuple(
        f"sequences/split={split} is empty: too many targets share one time, and a cut never "
        "divides a time; take a longer log, a finer column of times or another --split-ratio"
        for split, share in zip(SPLITS, ratio, strict=True)
        if share and not num_rows["sequences", f"split={split}"]
    )


def _dates(job: SequencesJob, counts: LogCounts) -> tuple[date, ...]:
    """The days to write; NotReadyError for a log without rows or a day before its first event."""
    if counts.num_rows == 0:
        log = job.interactions
        wanted = f" with {', '.join(log.keep_values)} in {log.keep_column}" * bool(log.keep_values)
        raise NotReadyError(
            f"the log is empty: no row{wanted} in {log.where()}; "
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


def _write(
    job: SequencesJob,
    staging: Staging,
    packed: DataFrame,
    core: Core,
    cuts: SplitCuts,
    dates: tuple[date, ...],
    targets: TargetCounts,
) -> dict[Place, int]:
    """Stage all partitions, side by side; returns the rows of each."""
    settings = WindowSettings(window=job.window, strict_time=job.strict_time)
    shares = dict(zip(SPLITS, job.split_ratio, strict=True))
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = {
            ("sequences", f"split={split}"): pool.submit(
                write_sequences,
                packed,
                core,
                cuts,
                split,
                settings,
                staging,
                num_targets=round(share * targets.num_targets),
            )
            for split, share in shares.items()
        } | {
            ("histories", f"date={day}"): pool.submit(
                write_histories, packed, core, day, settings, staging, num_users=targets.num_users
            )
            for day in dates
        }
        return {place: rows.result() for place, rows in found.items()}


def _count_targets(packed: DataFrame, core: Core, job: SequencesJob) -> TargetCounts:
    targets = count_targets(packed, core, strict_time=job.strict_time)
    if not targets.num_targets:
        raise NotReadyError(
            "no user of the log has an event before another one, so there is no sequence; "
            "lower --min-user-events and --min-item-events, or give a longer log"
        )
    return targets


def _check_rows(num_rows: dict[Place, int], dates: tuple[date, ...], targets: TargetCounts) -> None:
    """Every target must have been written, and a history for every date."""
    for day in dates:
        if not num_rows["histories", f"date={day}"]:
            raise NotReadyError(
                f"after --since and the k-core no event is left before the end of "
                f"{day}: there is no history to write; give a later --date"
            )
    by_split = [num_rows["sequences", f"split={split}"] for split in SPLITS]
    assert sum(by_split) == targets.num_targets, (
        f"{targets.num_targets} targets, {by_split} sequences written"
    )


def _iso(micros: int | None) -> str:
    """Whole seconds of a time in microseconds since 1970, UTC."""
    if micros is None:
        return "none"
    return f"{datetime.fromtimestamp(micros / 1e6, UTC):%Y-%m-%dT%H:%M:%SZ}"
