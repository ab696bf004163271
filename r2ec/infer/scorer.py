"""Histories to rows of both tables: prompts, reasonings, ranking."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from r2ec import schemas
from r2ec.errors import R2ecError, UsageError
from r2ec.infer.embed import default_device, load_embeddings
from r2ec.infer.settings import ScoreSettings, allowed_items
from r2ec.model.checkpoint import load_model
from r2ec.retrieval.rank import top_k
from r2ec.sampler import Completion, SamplingSettings, sample
from r2ec.storage import Warehouse
from r2ec.tables import Catalog, History


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringInputs:
    """What a shard needs beside the model: device, item rows (I, H), allowed items (I,) or None."""

    device: str
    table_IH: Tensor
    allowed_I: Tensor | None

    @classmethod
    def load(
        cls,
        warehouse: Warehouse,
        model: str,
        catalog: Catalog,
        settings: ScoreSettings,
        *,
        device: str | None,
    ) -> "ScoringInputs":
        """Read and check them; `model` is the fingerprint.

        Raises `NotReadyError` for missing embeddings, `UsageError` for a filter or a device that is
        not there.
        """
        return cls(
            device=default_device(device),
            allowed_I=allowed_items(catalog, settings),
            table_IH=load_embeddings(warehouse, model, catalog),
        )


class Scorer:
    """A model and a catalog's rows in memory: turns histories into rows of both tables."""

    def __init__(
        self,
        model_dir: str,
        fingerprint: str,
        catalog: Catalog,
        settings: ScoreSettings,
        needs: ScoringInputs,
        *,
        batch_rows: int,
    ) -> None:
        """Load the model. Raises `UsageError` when it is no longer the one of `fingerprint`."""
        self._settings, self._catalog = settings, catalog
        self._batch_rows = batch_rows
        self._loaded = load_model(model_dir, device=needs.device)
        found = self._loaded.card.fingerprint
        if found != fingerprint:
            raise UsageError(
                f"{model_dir} holds model {found} now, but the run was begun with model"
                f" {fingerprint}: score the date again with one model"
            )
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
