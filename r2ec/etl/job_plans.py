"""The plans of the two jobs for `--dry-run`: inputs are found and checked, no row is read."""

from pyspark.sql import SparkSession

from r2ec.etl.catalog import read_items
from r2ec.etl.catalog_job import JOB as CATALOG_JOB
from r2ec.etl.catalog_job import TABLES as CATALOG_TABLES
from r2ec.etl.catalog_job import CatalogJob, find_items, previous_catalog
from r2ec.etl.files import InputFile, resolve
from r2ec.etl.increment import plan_increment
from r2ec.etl.increment_job import check_options
from r2ec.etl.inputs import InteractionInput
from r2ec.etl.interactions import find_interactions, read_interactions
from r2ec.etl.plan import InputPlan, JobPlan, PartitionPlan, columns_there, partition_plan
from r2ec.etl.quarantine import Quarantine
from r2ec.etl.register import check_names
from r2ec.etl.sequences_input import JOB as SEQUENCES_JOB
from r2ec.etl.sequences_input import TABLES as SEQUENCES_TABLES
from r2ec.etl.sequences_input import SequencesJob, load_catalog, num_items
from r2ec.schemas import SPLITS
from r2ec.storage import Warehouse

_LAST_DAY = "the day of the log's last event"
_IF_REJECTED = "replaced by the rows rejected, if any"


def plan_catalog(spark: SparkSession, job: CatalogJob) -> JobPlan:
    """What `build_catalog.py` would do; raises what the job itself would before it reads a row."""
    warehouse = Warehouse(job.warehouse)
    files = find_items(spark, job.items)
    items = InputPlan(
        option="--items",
        files=files,
        columns=columns_there(files, resolve(files, job.items.columns())),
        rows=read_items(spark, files, job.items),
    )
    logs = []
    if job.interactions:
        found = find_interactions(spark, job.interactions)
        logs = [_log_plan(spark, found, job.interactions)]
    notes = _registered(spark, warehouse, job.register, CATALOG_TABLES)
    partitions = [_undated("catalog/version"), _undated(f"quarantine/job={CATALOG_JOB}/date")]
    if job.version:
        previous, _ = previous_catalog(spark, warehouse, job.version)
        notes.append(f"indices go on from: {previous or 'none, they begin at 0'}")
        partitions = [
            partition_plan(warehouse, "catalog", f"version={job.version}"),
            _quarantine(warehouse, CATALOG_JOB, job.version),
        ]
    return JobPlan(
        job=CATALOG_JOB,
        warehouse=warehouse,
        inputs=[items, *logs],
        partitions=partitions,
        notes=notes,
    )


def plan_sequences(spark: SparkSession, job: SequencesJob) -> JobPlan:
    """What `build_sequences.py` would do; raises what the job itself would before it reads a row.

    An incremental run is planned by what the files tell; their rows may still ask for a full build.
    """
    warehouse = Warehouse(job.warehouse)
    version, _ = load_catalog(spark, warehouse, job.catalog_version)
    files = find_interactions(spark, job.interactions)
    notes, splits = [f"catalog version: {version}"], list(SPLITS)
    if job.incremental:
        check_options(job)
        found = plan_increment(
            warehouse,
            job.dates[0],
            files,
            options=job.history_options(),
            window=job.window,
            num_catalog_items=num_items(warehouse, version),
        )
        if isinstance(found, str):
            notes.append(f"not incremental: {found}; would build in full")
        else:
            notes.append(f"incremental: from the histories of {found.base}, reading these files")
            files, splits = found.files, []
    notes += _registered(spark, warehouse, job.register, SEQUENCES_TABLES)
    partitions = [partition_plan(warehouse, "sequences", f"split={split}") for split in splits]
    partitions += [partition_plan(warehouse, "histories", f"date={day}") for day in job.dates]
    if job.dates:
        partitions.append(_quarantine(warehouse, SEQUENCES_JOB, max(job.dates).isoformat()))
    else:
        quarantine = f"quarantine/job={SEQUENCES_JOB}/date"
        partitions += [_undated("histories/date"), _undated(quarantine)]
    return JobPlan(
        job=SEQUENCES_JOB,
        warehouse=warehouse,
        inputs=[_log_plan(spark, files, job.interactions)],
        partitions=partitions,
        notes=notes,
    )


def _log_plan(spark: SparkSession, files: list[InputFile], log: InteractionInput) -> InputPlan:
    return InputPlan(
        option="--interactions",
        files=files,
        columns=columns_there(files, resolve(files, log.columns())),
        rows=read_interactions(spark, files, log),
    )


def _registered(
    spark: SparkSession, warehouse: Warehouse, database: str | None, names: tuple[str, ...]
) -> list[str]:
    if database is None:
        return []
    check_names(spark, warehouse, database, names)
    return [f"tables registered in {database}: {', '.join(names)}"]


def _undated(place: str) -> PartitionPlan:
    return PartitionPlan(place=f"{place}=…", note=f"{_LAST_DAY}; the log must be read to tell it")


def _quarantine(warehouse: Warehouse, job: str, day: str) -> PartitionPlan:
    place = Quarantine(job=job, day=day, run_id="", max_share=1.0).place
    return partition_plan(warehouse, *place, note=_IF_REJECTED)
