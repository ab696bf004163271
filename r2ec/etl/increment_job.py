"""The incremental run of `jobs/build_sequences.py`: one more day of histories, and nothing else."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from r2ec.errors import GateError, UsageError
from r2ec.etl.audits import run_audits
from r2ec.etl.history_state import stage_state
from r2ec.etl.increment import (
    Increment,
    last_times,
    merged_state,
    new_items_are_older,
    plan_increment,
)
from r2ec.etl.increment_tasks import CHANGED, UndecidedError, WrittenRows, write_increment
from r2ec.etl.interactions import find_interactions
from r2ec.etl.ordered_log import count_rows
from r2ec.etl.packing import DROPPED_ITEM, IN_BASE, OUTSIDE_WINDOW
from r2ec.etl.register import register
from r2ec.etl.rows import POSITION_BITS
from r2ec.etl.sequences_input import (
    JOB,
    SequencesJob,
    load_catalog,
    num_items,
    read_log,
    stage_quarantine,
    state_of,
)
from r2ec.etl.session import fit_partitions
from r2ec.etl.staging import STAGING, Staging, open_staging
from r2ec.etl.summary import JobSummary, StageClock
from r2ec.etl.tables import keep, read_table, spark_schema
from r2ec.lock import JobLock
from r2ec.schemas import HISTORIES
from r2ec.storage import Warehouse


def run_increment(spark: SparkSession, job: SequencesJob) -> JobSummary | str:
    """Add the histories of the job's date; or, instead of a summary, why it takes a full build.

    Raises UsageError for options with which a history depends on the whole log.
    """
    check_options(job)
    started = time.perf_counter()
    clock = StageClock()
    warehouse, day = Warehouse(job.warehouse), job.dates[0]
    with clock.stage("find"):
        version, catalog = load_catalog(spark, warehouse, job.catalog_version)
        num_catalog_items = num_items(warehouse, version)
        plan = plan_increment(
            warehouse,
            day,
            find_interactions(spark, job.interactions),
            options=job.history_options(),
            window=job.window,
            num_catalog_items=num_catalog_items,
        )
        if isinstance(plan, str):
            return plan
        if new_items_are_older(catalog, plan):
            return "items that are new in the catalog have events that were left out as unknown"
        if not plan.files:
            return "no file of the log is new"
    fit_partitions(spark, sum(file.num_plain_bytes for file in plan.files))
    with ExitStack() as stack:
        lock = stack.enter_context(JobLock(warehouse, JOB))
        staging = open_staging(warehouse, JOB, lock)
        stack.callback(staging.discard)
        packed = keep(stack, read_log(spark, job, plan.files, catalog, _in_base(plan)))
        with clock.stage("read"):
            counts = count_rows(packed)
        if not counts.num_events:
            return "the log has no event after the histories that are there"
        quarantine, examples = stage_quarantine(job, staging, plan.files, packed, counts, job.dates)
        with clock.stage("write"), ThreadPoolExecutor(max_workers=1) as beside:
            times = beside.submit(last_times, packed, plan.files)
            try:
                written = write_increment(
                    spark, packed, staging, base=plan.base, day=day, window=job.window
                )
            except UndecidedError:
                return "an event lies at the very time at which a full history begins"
            read = state_of(job, num_catalog_items, counts, times.result())
            stage_state(staging, day, merged_state(plan, read))
        with clock.stage("audit"):
            check_rows(plan, written)
            tables = {
                "histories": _changed_rows(spark, staging),
                "catalog": catalog.withColumn("version", F.lit(version).cast("date")),
            }
            num_audits = run_audits(spark, tables, ["histories"])
        with clock.stage("publish"):
            num_written = staging.num_bytes("histories")
            staging.publish([("histories", f"date={day}"), *quarantine])
    if job.register:
        register(spark, warehouse, job.register, ("histories", "quarantine"))
    return JobSummary(
        job=JOB,
        target=f"histories {day} from those of {plan.base}",
        rows_in=counts.num_rows,
        rows_kept=counts.num_events,
        num_duplicates=counts.num_duplicates,
        num_filtered={
            "outside the time window": counts.left_out.get(OUTSIDE_WINDOW, 0),
            "of items that the catalog lacks": counts.left_out.get(DROPPED_ITEM, 0),
            "in the histories already": counts.left_out.get(IN_BASE, 0),
        },
        num_rejected=counts.rejected,
        examples=examples,
        figures={
            "files read": len(plan.files),
            "histories": written.num_known + written.num_new,
            "of new users": written.num_new,
            "bytes in": sum(file.num_bytes for file in plan.files),
            "bytes written": num_written,
        },
        num_audits=num_audits,
        stages=clock.seconds,
        seconds=time.perf_counter() - started,
    )


def check_options(job: SequencesJob) -> None:
    """Raise UsageError for options with which a history depends on the whole log."""
    depends = {
        "--min-user-events and --min-item-events": max(job.min_user_events, job.min_item_events)
        > 1,
        "--max-user-events-per-day": job.max_user_events_per_day is not None,
        "--order-by": job.interactions.order_by is not None,
        "a table as the log": job.interactions.table is not None,
    }
    for option, is_given in depends.items():
        if is_given:
            raise UsageError(
                f"--incremental does not go with {option}: a history then depends on the whole "
                "log; leave one of them out"
            )
    if len(job.dates) != 1:
        raise UsageError("--incremental adds one day: give --date once")


def check_rows(plan: Increment, written: WrittenRows) -> None:
    """Raise GateError unless there is a row for each one of the base."""
    if written.num_known != plan.num_base_rows:
        raise GateError(
            f"{written.num_known} histories were made of the {plan.num_base_rows} of {plan.base}; "
            "nothing was published. Build without --incremental"
        )


def _changed_rows(spark: SparkSession, staging: Staging) -> DataFrame:
    """The staged histories that are not as in the base, which was audited when it was built."""
    if not staging.warehouse.list_files(*STAGING, staging.run, *CHANGED):
        return spark.createDataFrame([], spark_schema(HISTORIES, "date"))
    return read_table(spark, HISTORIES, staging.uri(*CHANGED), "date")


def _in_base(plan: Increment) -> Column:
    """Is an event of a file that was read before, and before the base's end?"""
    number = F.shiftright("place", POSITION_BITS)
    return number.isin(sorted(plan.known_files())) & (F.col("time") < plan.since)
