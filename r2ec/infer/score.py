"""`r2ec-cli score`: histories of a date to recommendations and reasoning, one shard at a time.

The run id follows from everything that decides the result, so a restarted pod goes on with the
parts that are not there yet, and the same inputs give the same bytes on the same kind of machine.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import torch
from torch import Tensor

from r2ec import schemas
from r2ec.errors import GateError, R2ecError, StoppedError, UsageError
from r2ec.infer.embed import default_device, load_embeddings
from r2ec.infer.lease import Lease
from r2ec.infer.plan import RunPlan, histories_fingerprint, shard_parts
from r2ec.infer.publish import is_published
from r2ec.infer.writer import ShardWriter
from r2ec.logs import get_logger
from r2ec.model.checkpoint import LoadedModel, check_catalog, load_card, load_model
from r2ec.retrieval.rank import top_k
from r2ec.sampler import Completion, SamplingSettings, sample
from r2ec.storage import Warehouse
from r2ec.tables import Catalog, History, iter_histories, load_catalog

_LOG = get_logger(__name__)

MAX_TOP_K = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSettings:
    """What decides the rows of a run beside model, catalog and histories."""

    top_k: int
    reasoning_budget: int
    temperature: float
    seed: int
    categories: tuple[str, ...] = ()
    exclude_items: tuple[str, ...] = ()
    exclude_stores: tuple[str, ...] = ()
    allow_repeat: bool = False
    sampling_top_k: int = 0
    sampling_top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= MAX_TOP_K:
            raise UsageError(f"--top-k {self.top_k}: give 1 to {MAX_TOP_K}")
        if self.temperature == 0 and (self.sampling_top_k or self.sampling_top_p < 1):
            raise UsageError(
                "--sampling-top-k and --sampling-top-p have no effect with --temperature 0, which"
                " takes the likeliest token"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """One shard of a run, planned: nothing heavy is loaded yet."""

    warehouse: Warehouse
    plan: RunPlan
    shard: int
    model_dir: str
    catalog: Catalog
    settings: ScoreSettings
    now: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardResult:
    """What came of a shard; `already_published` means that nothing was left to do."""

    run_id: str
    shard: int
    num_users: int
    num_errors: int
    num_kept_parts: int
    already_published: bool


def plan_shard(
    warehouse: Warehouse,
    model_dir: str,
    settings: ScoreSettings,
    *,
    date: str,
    now: int,
    shard: int,
    num_shards: int,
    users_per_part: int,
    batch_rows: int,
) -> ShardJob:
    """Check the inputs of a shard and give the run its id.

    `now` is the end of the date in microseconds. Raises `NotReadyError` for missing tables or
    model, `UsageError` for a plain model directory, a catalog the model does not know, a shard
    outside 0 … num_shards - 1.
    """
    if not 0 <= shard < num_shards:
        raise UsageError(f"--shard {shard}: shards of --num-shards {num_shards} count from 0")
    card = load_card(model_dir)
    catalog = load_catalog(warehouse)
    check_catalog(card, catalog, model_dir)
    plan = RunPlan.build(
        date=date,
        model=card.fingerprint,
        catalog_version=catalog.version,
        histories=histories_fingerprint(warehouse, date),
        settings=asdict(settings),
        num_shards=num_shards,
        users_per_part=users_per_part,
        batch_rows=batch_rows,
    )
    return ShardJob(
        warehouse=warehouse,
        plan=plan,
        shard=shard,
        model_dir=model_dir,
        catalog=catalog,
        settings=settings,
        now=now,
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

    `report(users)` is called after each part, then `stopping()`: where it is true, and parts are
    left, the shard ends with `StoppedError`. Embeddings, filters and device are checked before
    anything is staged. Raises `NotReadyError` for missing embeddings, `UsageError` for a filter or
    a device that is not there, `LeaseHeldError` while another live process works on the shard,
    `GateError` if more than `max_error_share` of the users failed.
    """
    plan, warehouse = job.plan, job.warehouse
    if is_published(warehouse, plan.date, plan.run_id):
        return ShardResult(
            run_id=plan.run_id,
            shard=job.shard,
            num_users=0,
            num_errors=0,
            num_kept_parts=0,
            already_published=True,
        )
    needs = ScoringInputs.load(job, device=device)
    warehouse.check_writable()
    name = f"score-{plan.run_id}-shard-{job.shard:05d}"
    with Lease(warehouse, name, what=f"shard {job.shard} of run {plan.run_id} is being scored"):
        writer = ShardWriter(warehouse, plan, job.shard)
        done = writer.finished_parts()
        records = dict(done)
        scorer = None
        num_parts = 0
        histories = iter_histories(warehouse, plan.date, job.now)
        for part, users in shard_parts(histories, plan, job.shard):
            if stopping():
                raise StoppedError(
                    f"stopped after part {part} of shard {job.shard}; what is scored is kept: run"
                    " the same command again to go on"
                )
            num_parts = part + 1
            if part not in done:
                scorer = scorer or Scorer(job, needs)
                start = time.monotonic()
                recommendations, reasoning = scorer.score(users)
                seconds = time.monotonic() - start
                records[part] = writer.write_part(
                    part,
                    recommendations,
                    reasoning,
                    device_seconds=seconds,
                    wall_seconds=seconds,
                )
            report(len(users))
        num_users = sum(record.num_users for record in records.values())
        num_errors = sum(record.num_errors for record in records.values())
        if num_errors > max_error_share * num_users:
            # Before the manifest: a shard without one cannot be published.
            raise GateError(
                f"{num_errors:,} of {num_users:,} users of shard {job.shard} failed, more than"
                f" --max-error-share {max_error_share}; see status and error in"
                f" {warehouse.path(*plan.staging)}/reasoning"
            )
        writer.finish(num_parts)
    return ShardResult(
        run_id=plan.run_id,
        shard=job.shard,
        num_users=num_users,
        num_errors=num_errors,
        num_kept_parts=len(done),
        already_published=False,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringInputs:
    """What a shard needs beside the model: device, item rows (I, H), allowed items (I,) or None."""

    device: str
    table_IH: Tensor
    allowed_I: Tensor | None

    @classmethod
    def load(cls, job: ShardJob, *, device: str | None) -> "ScoringInputs":
        """Read and check them. Raises as `score_shard`."""
        return cls(
            device=default_device(device),
            allowed_I=allowed_items(job.catalog, job.settings),
            table_IH=load_embeddings(job.warehouse, job.plan.model, job.catalog),
        )


class Scorer:
    """A model and a catalog's rows in memory: turns histories into rows of both tables."""

    def __init__(self, job: ShardJob, needs: ScoringInputs) -> None:
        self._settings, self._catalog = job.settings, job.catalog
        self._batch_rows = job.plan.batch_rows
        self._loaded: LoadedModel = load_model(job.model_dir, device=needs.device)
        self._table_IH = needs.table_IH.to(self._loaded.model.device)
        allowed_I = needs.allowed_I
        self._allowed_I = None if allowed_I is None else allowed_I.to(self._table_IH.device)

    def score(self, users: Sequence[History]) -> tuple[pa.Table, pa.Table]:
        """Recommendations and reasoning of these users; a user who fails has status `error`."""
        prompts, failed = self._encode(users)
        ready = [user for user in users if user.user_id in prompts]
        settings = SamplingSettings(
            temperature=self._settings.temperature,
            top_k=self._settings.sampling_top_k,
            top_p=self._settings.sampling_top_p,
            max_new_tokens=self._settings.reasoning_budget,
            seed=self._settings.seed,
        )
        groups = sample(
            self._loaded.model,
            self._loaded.encoder,
            [prompts[user.user_id] for user in ready],
            [user.user_id for user in ready],
            settings,
            batch_rows=self._batch_rows,
        )
        completions = [group[0] for group in groups]
        reasoning = [
            self._reasoning_row(user, completion)
            for user, completion in zip(ready, completions, strict=True)
        ]
        reasoning += [
            _error_row(user, failed[user.user_id]) for user in users if user.user_id in failed
        ]
        return (
            self._recommendations(ready, completions),
            pa.Table.from_pylist(reasoning, schema=schemas.REASONING.schema),
        )

    def _encode(self, users: Sequence[History]) -> tuple[dict[str, list[int]], dict[str, str]]:
        prompts: dict[str, list[int]] = {}
        failed: dict[str, str] = {}
        for user in users:
            try:
                prompts[user.user_id] = self._loaded.encoder.user_ids(user, self._catalog)
            except (R2ecError, ValueError) as error:
                # One user's broken row must not end the shard: it is told in `status`, `error`.
                failed[user.user_id] = f"{type(error).__name__}: {error}"
        return prompts, failed

    def _recommendations(
        self, users: Sequence[History], completions: Sequence[Completion]
    ) -> pa.Table:
        schema = schemas.RECOMMENDATIONS.schema
        if not users:
            return schema.empty_table()
        model = self._loaded.model
        scores_BK, index_BK = top_k(
            torch.stack([completion.state_H for completion in completions]).to(model.device),
            self._table_IH,
            min(self._settings.top_k, self._catalog.num_items),
            temperature=model.temperature,
            seen=None if self._settings.allow_repeat else [user.item_index for user in users],
            allowed_I=self._allowed_I,
        )
        rows = [
            {
                "user_id": user.user_id,
                "rank": rank,
                "item_id": self._catalog.items[index].item_id,
                "item_index": index,
                "score": score,
            }
            for user, scores, indices in zip(
                users, scores_BK.tolist(), index_BK.tolist(), strict=True
            )
            for rank, (score, index) in enumerate(zip(scores, indices, strict=True), start=1)
            if index >= 0
        ]
        return pa.Table.from_pylist(rows, schema=schema)

    def _reasoning_row(self, user: History, completion: Completion) -> dict[str, object]:
        sampled = completion.ids[: completion.num_sampled]
        return {
            "user_id": user.user_id,
            "reasoning": self._loaded.encoder.reasoning_text(sampled, completion.finish_reason),
            "finish_reason": completion.finish_reason,
            "prompt_tokens": len(completion.prompt_ids),
            "reasoning_tokens": completion.num_sampled,
            "history_hash": user.history_hash,
            "status": "ok",
            "error": None,
        }


def allowed_items(catalog: Catalog, settings: ScoreSettings) -> Tensor | None:
    """Which items may be recommended, bool (I,), or None for all.

    A category matches its whole path or any prefix of it (`Toys` allows `Toys > Puzzles`).
    Raises `UsageError` for a category, an item or a store that the catalog does not hold.
    """
    if not (settings.categories or settings.exclude_items or settings.exclude_stores):
        return None
    _require_known("--exclude-items", settings.exclude_items, {i.item_id for i in catalog.items})
    _require_known("--exclude-stores", settings.exclude_stores, {i.store for i in catalog.items})
    for category in settings.categories:
        if not any(_within(item.category, category) for item in catalog.items):
            raise UsageError(f"--category {category!r} is not in catalog {catalog.version}")
    items, stores = set(settings.exclude_items), set(settings.exclude_stores)
    return torch.tensor(
        [
            item.item_id not in items
            and item.store not in stores
            and (
                not settings.categories
                or any(_within(item.category, category) for category in settings.categories)
            )
            for item in catalog.items
        ]
    )


def _require_known(option: str, given: Sequence[str], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise UsageError(
            f"{option}: {unknown[0]!r} is not in the catalog; write it as it stands there"
        )


def _within(path: str, category: str) -> bool:
    return path == category or path.startswith(f"{category} > ")


def _error_row(user: History, error: str) -> dict[str, object]:
    return {
        "user_id": user.user_id,
        "reasoning": None,
        "finish_reason": None,
        "prompt_tokens": None,
        "reasoning_tokens": None,
        "history_hash": user.history_hash,
        "status": "error",
        "error": error,
    }
