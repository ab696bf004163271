"""The job behind `jobs/build_catalog.py`: metadata and log in, one catalog version out."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from r2ec.errors import NotReadyError, UsageError
from r2ec.etl.audits import run_audits
from r2ec.etl.catalog import build_catalog, merge_items, read_items, with_text
from r2ec.etl.files import InputFile, find_inputs, require_columns, require_columns_somewhere
from r2ec.etl.inputs import ITEM_FIELDS, InteractionInput, ItemInput
from r2ec.etl.interactions import find_interactions
from r2ec.etl.log_items import check_log, last_day, read_log_items
from r2ec.etl.quarantine import MAX_QUARANTINE_SHARE, Quarantine
from r2ec.etl.register import check_names, register
from r2ec.etl.session import fit_partitions
from r2ec.etl.staging import Staging, open_staging
from r2ec.etl.summary import JobSummary, StageClock, run_id
from r2ec.etl.tables import conform, keep, read_table
from r2ec.etl.times import check_time_format
from r2ec.lock import JobLock
from r2ec.schemas import CATALOG
from r2ec.storage import Warehouse

JOB = "build_catalog"
TABLES = ("catalog", "quarantine")
OPTIONS = {
    "item": "--items-item-column",
    "updated": "--updated-column",
    "quantity": "the mapping's quantity_column",
    "invoice": "the mapping's invoice_column",
} | {name: f"--{name.replace('_', '-')}-column" for name in ITEM_FIELDS}


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogJob:
    """What to build: `version` is an ISO day, by default that of the log's last event.

    `register` is the database of Spark's catalog that the tables are registered in. What stands for
    the job in a run's name leaves out `dry_run` and `explain`: they change no row.
    """

    items: ItemInput
    interactions: InteractionInput | None
    warehouse: str
    version: str | None = None
    unknown_items: Literal["quarantine", "keep"] = "quarantine"
    max_quarantine_share: float = MAX_QUARANTINE_SHARE
    register: str | None = None
    dry_run: bool = field(default=False, repr=False)
    explain: bool = field(default=False, repr=False)

    @property
    def uses_metastore(self) -> bool:
        """Whether tables are read or registered by name."""
        tables = (self.items.table, self.interactions and self.interactions.table)
        return bool(self.register or any(tables))


@dataclass(frozen=True, kw_only=True, slots=True)
class _ItemCounts:
    """Rows of the metadata: good ones, distinct items among them, rejected ones by reason."""

    num_good: int
    num_items: int
    rejected: dict[str, int]

    @property
    def num_rows(self) -> int:
        return self.num_good + sum(self.rejected.values())


def run(spark: SparkSession, job: CatalogJob) -> JobSummary:
    """Build the catalog version; `NotReadyError`, `UsageError` or `GateError` as the case is."""
    started = time.perf_counter()
    warehouse = Warehouse(job.warehouse)
    clock = StageClock()
    with clock.stage("find"):
        if job.register:
            check_names(spark, warehouse, job.register, TABLES)
        files = find_items(spark, job.items)
        log_files = find_interactions(spark, job.interactions) if job.interactions else []
    fit_partitions(spark, sum(file.num_plain_bytes for file in [*files, *log_files]))
    with ExitStack() as stack:
        lock = stack.enter_context(JobLock(warehouse, JOB))
        staging = open_staging(warehouse, JOB, lock)
        stack.callback(staging.discard)
        with clock.stage("read"):
            log = keep(stack, read_log_items(spark, log_files, job.interactions))
            log_counts = check_log(log, job.interactions)
            seen = log.where(F.col("reason").isNull()).drop("reason", "num_rows")
            version = job.version or last_day(log_counts)
            previous_version, previous = previous_catalog(spark, warehouse, version)
            items = keep(stack, read_items(spark, files, job.items))
            counts = _count(items)
        if counts.num_rows == 0:
            where = job.items.table or " ".join(job.items.paths)
            raise NotReadyError(f"--items {where}: there is no item in it")
        quarantine, examples = _quarantine(job, staging, version, files, items, counts)
        place = ("catalog", f"version={version}")
        with clock.stage("write"):
            merged, num_unknown = _merge(items, seen, previous, job.unknown_items)
            # The sort by index looks at its input twice: the texts are cleaned once.
            texts = keep(stack, with_text(merged, job.items.categories_separator))
            staging.write(conform(build_catalog(texts, seen, previous), CATALOG), *place)
            num_items = staging.num_rows(*place)
            num_conflicting = texts.where("is_conflicting").count()
            num_old = previous.count() if previous is not None else 0
        with clock.stage("audit"):
            versions = _with_version(read_table(spark, CATALOG, staging.uri(*place)), version)
            if previous is not None and previous_version not in (None, version):
                versions = versions.unionByName(_with_version(previous, str(previous_version)))
            num_audits = run_audits(spark, {"catalog": versions}, ["catalog"])
        with clock.stage("publish"):
            num_written = staging.num_bytes()
            staging.publish([place, quarantine])
    if job.register:
        register(spark, warehouse, job.register, TABLES)
    kept_or_not = "kept" if job.unknown_items == "keep" else "left out"
    return JobSummary(
        job=JOB,
        target=f"version={version}",
        rows_in=counts.num_rows,
        rows_kept=counts.num_items,
        num_duplicates=counts.num_good - counts.num_items,
        duplicates_are="merged with others of their item",
        num_rejected=counts.rejected,
        examples=examples,
        figures={
            "items": num_items,
            "new items": num_items - num_old,
            "items with conflicting metadata": num_conflicting,
            f"items of the log without metadata ({kept_or_not})": num_unknown,
            **(log_counts.figures() if job.interactions else {}),
            "bytes in": sum(file.num_bytes for file in [*files, *log_files]),
            "bytes written": num_written,
        },
        num_audits=num_audits,
        stages=clock.seconds,
        seconds=time.perf_counter() - started,
    )


def _quarantine(
    job: CatalogJob,
    staging: Staging,
    version: str,
    files: list[InputFile],
    items: DataFrame,
    counts: _ItemCounts,
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Stage the rejected rows and check their share; returns the partition and examples."""
    quarantine = Quarantine(
        job=JOB,
        day=version,
        run_id=run_id(JOB, version, job),
        max_share=job.max_quarantine_share,
    )
    examples = {}
    if counts.rejected:
        rejected = items.where(F.col("reason").isNotNull())
        examples = quarantine.stage(staging, rejected, files)
    quarantine.check(staging, counts.rejected, counts.num_rows, examples)
    return quarantine.place, examples


def _merge(
    items: DataFrame, seen: DataFrame, previous: DataFrame | None, unknown_items: str
) -> tuple[DataFrame, int]:
    """The metadata by item, with those that only the log knows if wanted, and their number.

    An item that is in the catalog already is known: its text stays, whatever is delivered today.
    """
    merged = merge_items(items)
    unknown = seen.join(merged.select("item_id"), on="item_id", how="left_anti").select("item_id")
    num_unknown = unknown.count()
    if unknown_items == "keep" and num_unknown:
        if previous is not None:
            unknown = unknown.join(previous.select("item_id"), on="item_id", how="left_anti")
        merged = merged.unionByName(unknown, allowMissingColumns=True)
    return merged, num_unknown


def find_items(spark: SparkSession, items: ItemInput) -> list[InputFile]:
    """The files of the metadata; errors for missing files and columns."""
    files = find_inputs(spark, items, "--items")
    require_columns(files, items.columns(), items.required(), OPTIONS)
    require_columns_somewhere(spark, files, "--items")
    check_time_format(spark, items.time_format)
    return files


def previous_catalog(
    spark: SparkSession, warehouse: Warehouse, version: str
) -> tuple[str | None, DataFrame | None]:
    """The version whose indices go on: this one if it was built before, else the latest one.

    Raises `UsageError` where a later version is there, for indices are appended in order.
    """
    versions = warehouse.partitions("catalog", "version")
    if not versions:
        return None, None
    if versions[-1] > version:
        raise UsageError(
            f"catalog version {versions[-1]} is later than {version}: indices are appended in the "
            "order of the versions; give a later --version"
        )
    return versions[-1], read_table(
        spark, CATALOG, warehouse.uri("catalog", f"version={versions[-1]}")
    )


def _count(items: DataFrame) -> _ItemCounts:
    counted = items.groupBy("reason").agg(
        F.count(F.lit(1)).alias("num_rows"), F.count_distinct("item_id").alias("num_items")
    )
    rows = {row["reason"]: row for row in counted.collect()}
    good = rows.pop(None, None)
    return _ItemCounts(
        num_good=good["num_rows"] if good else 0,
        num_items=good["num_items"] if good else 0,
        rejected={reason: row["num_rows"] for reason, row in rows.items()},
    )


def _with_version(catalog: DataFrame, version: str) -> DataFrame:
    return catalog.withColumn("version", F.lit(version).cast("date"))
