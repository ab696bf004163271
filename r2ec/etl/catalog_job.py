"""The job behind `jobs/build_catalog.py`: metadata and log in, one catalog version out."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from r2ec.errors import GateError, NotReadyError, UsageError
from r2ec.etl.audits import run_audits
from r2ec.etl.catalog import build_catalog, merge_items, read_items, with_text
from r2ec.etl.files import InputFile, find_files, require_columns
from r2ec.etl.inputs import ITEM_FIELDS, InteractionInput, ItemInput
from r2ec.etl.interactions import find_interactions, read_interactions
from r2ec.etl.quarantine import MAX_QUARANTINE_SHARE, check_share, quarantine_rows
from r2ec.etl.session import fit_partitions
from r2ec.etl.staging import Staging, open_staging
from r2ec.etl.summary import JobSummary, run_id
from r2ec.storage import Warehouse

JOB = "build_catalog"
OPTIONS = {"item": "--items-item-column"} | {
    name: f"--{name.replace('_', '-')}-column" for name in ITEM_FIELDS
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogJob:
    """What to build: `version` is an ISO day, by default that of the log's last event."""

    items: ItemInput
    interactions: InteractionInput | None
    warehouse: str
    version: str | None = None
    unknown_items: Literal["quarantine", "keep"] = "quarantine"
    max_quarantine_share: float = MAX_QUARANTINE_SHARE


def run(spark: SparkSession, job: CatalogJob) -> JobSummary:
    """Build the catalog version; `NotReadyError`, `UsageError` or `GateError` as the case is."""
    started = time.perf_counter()
    warehouse = Warehouse(job.warehouse)
    files = _find_items(spark, job.items)
    log_files = find_interactions(spark, job.interactions) if job.interactions else []
    staging = open_staging(warehouse, JOB)
    fit_partitions(spark, sum(file.num_plain_bytes for file in [*files, *log_files]))
    cached: list[DataFrame] = []
    try:
        seen = _keep(cached, _first_seen(spark, log_files, job.interactions))
        version = job.version or _last_day(seen)
        previous_version = _previous_version(warehouse, version)
        items = _keep(cached, read_items(spark, files, job.items))
        return _build(spark, job, staging, version, previous_version, files, items, seen, started)
    finally:
        staging.discard()
        for rows in cached:
            rows.unpersist()


def _build(
    spark: SparkSession,
    job: CatalogJob,
    staging: Staging,
    version: str,
    previous_version: str | None,
    files: list[InputFile],
    items: DataFrame,
    seen: DataFrame,
    started: float,
) -> JobSummary:
    counts = _count_by_reason(items)
    num_good = counts.pop(None, 0)
    rejected = {reason: count for reason, count in counts.items() if reason is not None}
    num_rows = num_good + sum(rejected.values())
    if num_rows == 0:
        raise NotReadyError(f"--items {' '.join(job.items.paths)}: there is no item in it")
    quarantine = ("quarantine", f"job={JOB}", f"date={version}")
    if rejected:
        run_name = run_id(JOB, version, job.items, job.interactions)
        rows = quarantine_rows(items.where(F.col("reason").isNotNull()), files, run_name)
        staging.write(rows, *quarantine)
    try:
        limit = job.max_quarantine_share
        check_share(rejected, num_rows=num_rows, limit=limit, where="the quarantine table")
        if num_good == 0:
            raise GateError(
                f"all {num_rows} rows of --items were rejected: see quarantine/job={JOB}"
            )
    except GateError:
        staging.publish([quarantine])
        raise
    merged = merge_items(items)
    known = merged.select("item_id")
    unknown = seen.join(known, on="item_id", how="left_anti").select("item_id")
    if job.unknown_items == "keep":
        merged = merged.unionByName(unknown, allowMissingColumns=True)
    previous = None
    if previous_version is not None:
        address = staging.warehouse.uri("catalog", f"version={previous_version}")
        previous = spark.read.parquet(address)
    texts = with_text(merged, job.items.categories_separator)
    place = ("catalog", f"version={version}")
    staging.write(build_catalog(texts, seen, previous), *place)
    catalog = spark.read.parquet(staging.uri(*place)).withColumn("version", F.lit(version))
    versions = catalog
    if previous is not None and previous_version != version:
        older = previous.withColumn("version", F.lit(previous_version))
        versions = catalog.unionByName(older)
    num_audits = run_audits(spark, {"catalog": versions}, ["catalog"])
    num_items = catalog.count()
    num_new = num_items - (previous.count() if previous is not None else 0)
    num_distinct, num_unknown = known.count(), unknown.count()
    staging.publish([place, quarantine])
    kept_or_not = "kept" if job.unknown_items == "keep" else "left out"
    return JobSummary(
        job=JOB,
        target=f"version={version}",
        rows_in=num_rows,
        rows_kept=num_distinct,
        num_duplicates=num_good - num_distinct,
        num_rejected=rejected,
        figures={
            "items": num_items,
            "new items": num_new,
            f"items of the log without metadata ({kept_or_not})": num_unknown,
        },
        num_audits=num_audits,
        seconds=time.perf_counter() - started,
    )


def _find_items(spark: SparkSession, items: ItemInput) -> list[InputFile]:
    files = find_files(
        spark, items.paths, format=items.format, delimiter=items.delimiter, option="--items"
    )
    require_columns(files, items.columns(), items.required(), OPTIONS)
    return files


def _first_seen(
    spark: SparkSession, files: list[InputFile], log: InteractionInput | None
) -> DataFrame:
    """The `time` of the first event and the `last_time` of each `item_id` of the log."""
    if log is None:
        return spark.createDataFrame([], "item_id string, time bigint, last_time bigint")
    events = read_interactions(spark, files, log).where(F.col("reason").isNull())
    return events.groupBy("item_id").agg(
        F.min("time").alias("time"), F.max("time").alias("last_time")
    )


def _last_day(seen: DataFrame) -> str:
    row = seen.agg(F.max("last_time")).first()
    if row is None or row[0] is None:
        raise NotReadyError(
            "no event of the log could be read, so the catalog has no day for its version: "
            "check --interactions, --time-column and --time-unit, or give --version"
        )
    return datetime.fromtimestamp(row[0] / 1e6, UTC).date().isoformat()


def _previous_version(warehouse: Warehouse, version: str) -> str | None:
    """The version whose indices go on: this one if it was built before, else the latest one."""
    versions = warehouse.partitions("catalog", "version")
    if versions and versions[-1] > version:
        raise UsageError(
            f"catalog version {versions[-1]} is later than {version}: indices are appended in the "
            "order of the versions; give a later --version"
        )
    return versions[-1] if versions else None


def _count_by_reason(items: DataFrame) -> dict[str | None, int]:
    return {row["reason"]: row["count"] for row in items.groupBy("reason").count().collect()}


def _keep(cached: list[DataFrame], rows: DataFrame) -> DataFrame:
    cached.append(rows.persist(StorageLevel.MEMORY_AND_DISK))
    return cached[-1]
