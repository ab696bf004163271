"""The job behind `jobs/build_sequences.py`: the log in; sequences, histories, quarantine out."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from r2ec.errors import NotReadyError
from r2ec.etl.audits import run_audits
from r2ec.etl.files import InputFile
from r2ec.etl.inputs import InteractionInput
from r2ec.etl.interactions import (
    find_interactions,
    order_columns,
    read_interactions,
    with_item_index,
    within,
)
from r2ec.etl.kcore import Core, k_core
from r2ec.etl.ordered_log import LogCounts, count_rows, pack_log, rejected_rows
from r2ec.etl.packing import OUTSIDE_WINDOW
from r2ec.etl.quarantine import MAX_QUARANTINE_SHARE, Quarantine
from r2ec.etl.sequences import WindowSettings, end_of_day, write_histories, write_sequences
from r2ec.etl.session import fit_partitions
from r2ec.etl.splits import SplitCuts, TargetCounts, count_targets, find_cuts
from r2ec.etl.staging import Staging, open_staging
from r2ec.etl.summary import JobSummary, StageClock, run_id
from r2ec.etl.tables import keep, read_table
from r2ec.schemas import CATALOG, HISTORIES, SEQUENCES, SPLITS
from r2ec.storage import Warehouse

JOB = "build_sequences"

Place = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SequencesJob:
    """What to build: `dates` are the days of the histories (the log's last one by default).

    `since` and `until` bound the log in microseconds, the first inside, the second outside. A user
    with more than `max_user_events_per_day` events on one day goes to quarantine as a robot.
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
    max_user_events_per_day: int | None = None
    split_ratio: tuple[float, float, float] = (0.8, 0.1, 0.1)
    max_quarantine_share: float = MAX_QUARANTINE_SHARE


def run(spark: SparkSession, job: SequencesJob) -> JobSummary:
    """Build the tables; `NotReadyError`, `UsageError` or `GateError` as the case is."""
    started = time.perf_counter()
    clock = StageClock()
    warehouse = Warehouse(job.warehouse)
    with clock.stage("find"):
        version, catalog = _load_catalog(spark, warehouse, job.catalog_version)
        files = find_interactions(spark, job.interactions)
        staging = open_staging(warehouse, JOB)
    num_bytes = sum(file.num_plain_bytes for file in files)
    fit_partitions(spark, num_bytes)
    with ExitStack() as stack:
        stack.callback(staging.discard)
        read = within(read_interactions(spark, files, job.interactions), job.since, job.until)
        packed = keep(
            stack,
            pack_log(
                with_item_index(read, catalog),
                order_columns(job.interactions),
                max_user_events_per_day=job.max_user_events_per_day,
            ),
        )
        with clock.stage("read"):
            counts = count_rows(packed)
        dates = _dates(job, counts)
        quarantine = _quarantine(job, staging, files, packed, counts, dates)
        with clock.stage("k-core"):
            core, num_items = k_core(
                packed,
                _num_items(catalog),
                min_user_events=job.min_user_events,
                min_item_events=job.min_item_events,
            )
        with clock.stage("cuts"):
            targets = _count_targets(packed, core, job)
            cuts = find_cuts(packed, core, targets, job.split_ratio, strict_time=job.strict_time)
        with clock.stage("write"):
            num_rows = _write(job, staging, packed, core, cuts, dates, targets)
            _check_rows(num_rows, dates, targets)
        with clock.stage("audit"):
            tables = {
                "sequences": read_table(spark, SEQUENCES, staging.uri("sequences"), "split"),
                "histories": read_table(spark, HISTORIES, staging.uri("histories"), "date"),
                "catalog": catalog.withColumn("version", F.lit(version).cast("date")),
            }
            num_audits = run_audits(spark, tables, ["sequences", "histories"])
        with clock.stage("publish"):
            num_written = staging.num_bytes()
            staging.publish([*num_rows, quarantine])
    return JobSummary(
        job=JOB,
        target="histories " + ", ".join(str(day) for day in dates),
        rows_in=counts.num_rows,
        rows_kept=targets.num_events,
        num_duplicates=counts.num_duplicates,
        num_filtered={
            "outside the time window": counts.left_out.get(OUTSIDE_WINDOW, 0),
            "dropped by k-core": counts.num_events - targets.num_events,
        },
        num_rejected=counts.rejected,
        figures={
            "users": targets.num_users,
            "items": num_items,
            "sequences train/valid/test": "/".join(
                str(num_rows["sequences", f"split={split}"]) for split in SPLITS
            ),
            "train until": f"{_moment(cuts.train_until):%Y-%m-%dT%H:%M:%SZ}",
            "valid until": f"{_moment(cuts.valid_until):%Y-%m-%dT%H:%M:%SZ}",
            "histories": "/".join(str(num_rows["histories", f"date={day}"]) for day in dates),
            "bytes in": sum(file.num_bytes for file in files),
            "bytes written": num_written,
        },
        num_audits=num_audits,
        stages=clock.seconds,
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


def _dates(job: SequencesJob, counts: LogCounts) -> tuple[date, ...]:
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
    packed: DataFrame,
    counts: LogCounts,
    dates: tuple[date, ...],
) -> Place:
    """Stage the rejected rows and check their share; returns the partition."""
    day = max(dates).isoformat() if dates else datetime.now(UTC).date().isoformat()
    quarantine = Quarantine(
        job=JOB, day=day, run_id=run_id(JOB, day, job), max_share=job.max_quarantine_share
    )
    if counts.rejected:
        quarantine.stage(staging, rejected_rows(packed), files)
    quarantine.check(staging, counts.rejected, counts.num_rows)
    if not counts.num_events:
        raise NotReadyError("no event of the log lies between --since and --until")
    return quarantine.place


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


def _num_items(catalog: DataFrame) -> int:
    """One more than the highest item index."""
    highest = catalog.agg(F.max("item_index")).first()
    return 0 if highest is None or highest[0] is None else int(highest[0]) + 1


def _moment(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1e6, UTC)
