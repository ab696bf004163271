"""`r2ec-cli score`: histories of a date to recommendations and reasoning, one shard at a time.

The run id follows from everything that decides the result, so a restarted pod goes on with the
parts that are not there yet, and the same inputs give the same bytes on the same kind of machine.
While a part's reasonings are generated the next one is read and tokenised, and the one before is
ranked and written.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from r2ec.catalog import Catalog, load_catalog
from r2ec.errors import GateError, StoppedError, UsageError
from r2ec.infer.by_user import iter_shard_histories
from r2ec.infer.carry import CarrySource, find_source
from r2ec.infer.lease import Lease
from r2ec.infer.manifest import PartRecord
from r2ec.infer.overlap import WriteBehind, read_ahead
from r2ec.infer.part_maker import PartMaker
from r2ec.infer.plan import CACHE_GIB, RunPlan, histories_fingerprint, shard_parts
from r2ec.infer.publish import is_published
from r2ec.infer.scorer import ScoringInputs
from r2ec.infer.settings import ScoreSettings
from r2ec.infer.writer import ShardWriter, read_part_file
from r2ec.model.card import check_catalog, load_card
from r2ec.storage import Warehouse


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """One shard of a run, planned: nothing heavy is loaded yet.

    `source` is the published run to carry rows over from. `full_because` says in words why there
    is none although it was asked for.
    """

    warehouse: Warehouse
    plan: RunPlan
    shard: int
    model_dir: str
    catalog: Catalog
    history_items: int
    settings: ScoreSettings
    source: CarrySource | None
    full_because: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardResult:
    """What came of a shard; `already_published` means that nothing was left to do."""

    run_id: str
    shard: int
    num_users: int
    num_errors: int
    num_carried: int
    already_published: bool


def plan_shard(
    warehouse: Warehouse,
    model_dir: str,
    settings: ScoreSettings,
    *,
    date: str,
    shard: int,
    num_shards: int,
    users_per_part: int,
    batch_rows: int,
    cache_gib: float = CACHE_GIB,
    changed_only: bool = False,
) -> ShardJob:
    """Check the inputs of a shard and give the run its id.

    With `changed_only` rows of the last date published before are carried over where nothing
    changed; where they cannot be, the run is the same as without. Raises `NotReadyError` for
    missing tables or model, `UsageError` for a plain model directory, a catalog the model does not
    know, a shard outside 0 … num_shards - 1.
    """
    if not 0 <= shard < num_shards:
        raise UsageError(f"--shard {shard}: shards of --num-shards {num_shards} count from 0")
    card = load_card(model_dir)
    catalog = load_catalog(warehouse)
    check_catalog(card, catalog, model_dir)
    identity = {"model": card.fingerprint, "catalog_fingerprint": catalog.text_fingerprint()}
    found: CarrySource | str | None = None
    if changed_only:
        found = find_source(warehouse, date, settings=settings.described(), **identity)
    source = found if isinstance(found, CarrySource) else None
    plan = RunPlan.build(
        date=date,
        catalog_version=catalog.version,
        histories=histories_fingerprint(warehouse, date),
        settings=settings.described(),
        num_shards=num_shards,
        users_per_part=users_per_part,
        batch_rows=batch_rows,
        cache_gib=cache_gib,
        carried_from=None if source is None else source.run_id,
        **identity,
    )
    return ShardJob(
        warehouse=warehouse,
        plan=plan,
        shard=shard,
        model_dir=model_dir,
        catalog=catalog,
        history_items=card.prompt_config(model_dir).history_items,
        settings=settings,
        source=source,
        full_because=found if isinstance(found, str) else None,
    )


def score_shard(
    job: ShardJob,
    *,
    max_error_share: float,
    device: str | None,
    report: Callable[[int], None],
    stopping: Callable[[], bool],
) -> ShardResult:
    """Score the users of a shard that are not scored yet and write the shard's manifest.

    `report(users)` is called once a part is written, `stopping()` before each: where it is true
    the parts in hand are written and the shard ends with `StoppedError`. Embeddings, filters and
    device are checked before anything is staged. Raises `NotReadyError` for missing embeddings,
    `UsageError` for a filter or a device that is not there, `LeaseHeldError` while another live
    process works on the shard, `GateError` if more than `max_error_share` of the users failed.
    """
    plan, warehouse = job.plan, job.warehouse
    if is_published(warehouse, plan.date, plan.run_id):
        return _result(job, {}, already_published=True)
    needs = ScoringInputs.load(warehouse, plan.model, job.catalog, job.settings, device=device)
    warehouse.check_writable()
    name = f"score-{plan.run_id}-shard-{job.shard:05d}"
    with Lease(warehouse, name, what=f"shard {job.shard} of run {plan.run_id} is being scored"):
        writer = ShardWriter(warehouse, plan, job.shard)
        records = writer.finished_parts()
        maker = PartMaker(
            warehouse,
            plan,
            writer,
            needs,
            model_dir=job.model_dir,
            catalog=job.catalog,
            settings=job.settings,
            history_items=job.history_items,
            source=job.source,
        )
        num_parts = 0

        def keep(record: PartRecord | None) -> None:
            if record is not None:
                records[record.part] = record
                report(record.num_users)

        histories = iter_shard_histories(warehouse, plan.date, job.shard, plan.num_shards)
        prepared = maker.prepare(shard_parts(histories, plan, job.shard), frozenset(records))
        with closing(read_ahead(prepared)) as parts, WriteBehind[PartRecord]() as writing:
            for part, users, todo in parts:
                if stopping():
                    raise StoppedError(
                        f"stopped before part {part} of shard {job.shard}; what is scored is kept:"
                        " run the same command again to go on"
                    )
                num_parts = part + 1
                if todo is None:
                    report(len(users))
                else:
                    keep(writing.submit(maker.make(todo)))
            keep(writing.result())
        result = _result(job, records)
        if result.num_errors > max_error_share * result.num_users:
            # Before the manifest: a shard without one cannot be published.
            raise GateError(
                f"{result.num_errors:,} of {result.num_users:,} users of shard {job.shard} failed,"
                f" more than --max-error-share {max_error_share}; {_first_failure(job, records)};"
                f" all are in {warehouse.path(*plan.staging)}/reasoning, columns status and error"
            )
        writer.finish(num_parts)
    return result


def _result(
    job: ShardJob, records: Mapping[int, PartRecord], *, already_published: bool = False
) -> ShardResult:
    return ShardResult(
        run_id=job.plan.run_id,
        shard=job.shard,
        num_users=sum(record.num_users for record in records.values()),
        num_errors=sum(record.num_errors for record in records.values()),
        num_carried=sum(record.num_carried for record in records.values()),
        already_published=already_published,
    )


def _first_failure(job: ShardJob, records: Mapping[int, PartRecord]) -> str:
    record = min((r for r in records.values() if r.num_errors), key=lambda record: record.part)
    data = read_part_file(job.warehouse, job.plan, record.reasoning)
    rows = pq.read_table(pa.BufferReader(data), columns=["user_id", "status", "error"]).to_pylist()
    row = next(row for row in rows if row["status"] == "error")
    return f"the first: user {row['user_id']!r}: {row['error']}"
