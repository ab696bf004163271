"""What the sequences job reads: its options, the catalog, the log's chunks, the rows left out."""

from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal

import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from r2ec.errors import NotReadyError
from r2ec.etl.files import InputFile
from r2ec.etl.history_state import HistoryState, LogFile
from r2ec.etl.inputs import InteractionInput
from r2ec.etl.interactions import order_columns, read_interactions, with_item_index, within
from r2ec.etl.ordered_log import LogCounts, pack_log, rejected_rows
from r2ec.etl.packing import DROPPED_ITEM, IN_BASE, UNKNOWN_ITEM
from r2ec.etl.quarantine import MAX_QUARANTINE_SHARE, UNDATED, Quarantine, reasons_text
from r2ec.etl.staging import Staging
from r2ec.etl.summary import run_id
from r2ec.etl.tables import read_table
from r2ec.schemas import CATALOG
from r2ec.storage import Warehouse

JOB = "build_sequences"
TABLES = ("sequences", "histories", "quarantine")

Place = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SequencesJob:
    """What to build: `dates` are the days of the histories (the log's last one by default).

    `since` and `until` bound the log in microseconds, the first inside, the second outside. A user
    with more than `max_user_events_per_day` events on one day goes to quarantine as a robot.
    Events of items that the catalog lacks go to quarantine or, with `unknown_items` "drop", are
    only counted. `incremental` adds the histories of the one date to those of an earlier day.
    `register` is the database of Spark's catalog that the tables are registered in. What stands for
    the job in a run's name leaves out `dry_run` and `explain`: they change no row.
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
    incremental: bool = False
    register: str | None = None
    unknown_items: Literal["quarantine", "drop"] = "quarantine"
    dry_run: bool = field(default=False, repr=False)
    explain: bool = field(default=False, repr=False)

    @property
    def uses_metastore(self) -> bool:
        """Whether tables are read or registered by name."""
        return bool(self.register or self.interactions.table)

    def history_options(self) -> str:
        """All that shapes a history but the window and the log's files, as one text."""
        log = replace(self.interactions, paths=(), named=frozenset())
        limits = (self.min_user_events, self.min_item_events, self.max_user_events_per_day)
        return repr((log, self.since, self.until, limits))


def load_catalog(
    spark: SparkSession, warehouse: Warehouse, version: str | None
) -> tuple[str, DataFrame]:
    """The version wanted (the latest, if none is) and its rows; NotReadyError without it."""
    versions = warehouse.partitions("catalog", "version")
    wanted = version or (versions[-1] if versions else None)
    if wanted is None or wanted not in versions:
        have = f"there is: {', '.join(versions[-5:])}" if versions else "there is none yet"
        raise NotReadyError(
            f"no catalog version {wanted or 'at all'} in {warehouse.path()} ({have}); "
            "build it with: spark-submit jobs/build_catalog.py"
        )
    return wanted, read_table(spark, CATALOG, warehouse.uri("catalog", f"version={wanted}"))


def num_items(warehouse: Warehouse, version: str) -> int:
    """One more than the highest item index; read here: a query of Spark's would take far longer."""
    batches = warehouse.iter_batches(
        CATALOG, batch_rows=1 << 20, columns=["item_index"], version=version
    )
    return 1 + max((pc.max(batch.column(0)).as_py() for batch in batches if len(batch)), default=-1)


def stage_quarantine(
    job: SequencesJob,
    staging: Staging,
    files: list[InputFile],
    packed: DataFrame,
    counts: LogCounts,
    dates: tuple[date, ...],
) -> tuple[list[Place], dict[str, str]]:
    """Stage the rejected rows and check their share.

    Returns the partitions to replace, and an example of each reason. Raises `NotReadyError` where
    the window leaves no event, `GateError` for too large a share.

    Of a log without one event the day is not known: its rows lie under the first day of 1970 until
    a run that knows better.
    """
    day = max(dates).isoformat() if dates else UNDATED
    quarantine = Quarantine(
        job=JOB, day=day, run_id=run_id(JOB, day, job), max_share=job.max_quarantine_share
    )
    examples = {}
    if counts.rejected:
        examples = quarantine.stage(staging, rejected_rows(packed), files)
    quarantine.check(staging, counts.rejected, counts.num_rows, examples)
    if not counts.num_events:
        raise NotReadyError(
            "no event of the log is left between --since and --until "
            f"({reasons_text(counts.left_out)})"
        )
    return [quarantine.place, quarantine.undated_place], examples


def read_log(
    spark: SparkSession,
    job: SequencesJob,
    files: list[InputFile],
    catalog: DataFrame,
    is_known: Column | None = None,
) -> DataFrame:
    """The chunks of the log's events inside the job's time window, save those known already."""
    read = within(read_interactions(spark, files, job.interactions), job.since, job.until)
    if is_known is not None:
        in_base = F.when(F.col("reason").isNull() & is_known, IN_BASE)
        read = read.withColumn("reason", F.coalesce("reason", in_base))
    reason = DROPPED_ITEM if job.unknown_items == "drop" else UNKNOWN_ITEM
    return pack_log(
        with_item_index(read, catalog, reason),
        order_columns(job.interactions),
        max_user_events_per_day=job.max_user_events_per_day,
    )


def state_of(
    job: SequencesJob, num_catalog_items: int, counts: LogCounts, files: list[LogFile]
) -> HistoryState:
    """What histories are made from."""
    return HistoryState(
        options=job.history_options(),
        window=job.window,
        num_items=num_catalog_items,
        num_unknown=counts.left_out.get(UNKNOWN_ITEM, 0) + counts.left_out.get(DROPPED_ITEM, 0),
        files=tuple(files),
    )
