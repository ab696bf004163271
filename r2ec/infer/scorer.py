"""Histories to rows of both tables: prompts, reasonings, ranking."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from r2ec import schemas
from r2ec.catalog import Catalog
from r2ec.errors import UsageError
from r2ec.infer.embed import default_device, load_embeddings
from r2ec.infer.plan import CACHE_GIB
from r2ec.infer.salvage import Failure, each_or_failure, reason_of
from r2ec.infer.settings import ScoreSettings, allowed_items
from r2ec.model.checkpoint import load_model
from r2ec.model.context import check_context
from r2ec.retrieval.rank import top_k
from r2ec.retrieval.table import on_device
from r2ec.sampler import Completion, sample
from r2ec.storage import Warehouse
from r2ec.tables import History

Result = TypeVar("Result")


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompted:
    """Users with the ids of their prompts; why there are none for the others, by user."""

    users: Sequence[History]
    prompts: dict[str, list[int]]
    failed: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """Users with their reasonings and, once ranked, lists: scores and item indices, best first."""

    users: Sequence[History]
    completions: dict[str, Completion]
    failed: dict[str, str]
    lists: dict[str, tuple[list[float], list[int]]] | None = None


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
        cache_gib: float = CACHE_GIB,
    ) -> None:
        """Load the model. At most `batch_rows` users run at once, fewer where their keys and values
        would take more than `cache_gib` GiB. Raises `UsageError` when the model is no longer the
        one of `fingerprint`.
        """
        self._settings, self._catalog = settings, catalog
        self._batch_rows, self._cache_bytes = batch_rows, int(cache_gib * 2**30)
        self._loaded = load_model(model_dir, device=needs.device)
        found = self._loaded.card.fingerprint
        if found != fingerprint:
            raise UsageError(
                f"{model_dir} holds model {found} now, but the run was begun with model"
                f" {fingerprint}: score the date again with one model"
            )
        check_context(self._loaded.encoder, settings.reasoning_budget, "--reasoning-budget")
        self._table_IH = on_device(needs.table_IH, self._loaded.model.device)
        # Its own tokenizer: the fast ones refuse work in a thread while another one sets them up.
        encoder = self._loaded.encoder
        self._prompt_encoder = replace(encoder, tokenizer=deepcopy(encoder.tokenizer))
        allowed_I = needs.allowed_I
        self._allowed_I = None if allowed_I is None else allowed_I.to(self._loaded.model.device)

    @property
    def catalog(self) -> Catalog:
        """The items that are ranked."""
        return self._catalog

    def score(self, users: Sequence[History]) -> tuple[pa.Table, pa.Table]:
        """Recommendations and reasoning of these users; a user who fails has status `error`.

        Each `user_id` at most once. Columns are those of `schemas.RECOMMENDATIONS` (a row for each
        rank, from 1) and `schemas.REASONING` (a row for each user), in the order of `users`.
        """
        return self.tables(self.complete(self.prompts(users)))

    def prompts(self, users: Sequence[History]) -> Prompted:
        """Tokenise; may run in a thread beside the other two steps."""
        failed: dict[str, str] = {}
        prompts = _kept(users, [self._prompt(user) for user in users], failed)
        return Prompted(users=users, prompts=prompts, failed=failed)

    def complete(self, prompted: Prompted) -> Completed:
        """Generate the reasonings and the states to rank by."""
        failed = dict(prompted.failed)
        users = [user for user in prompted.users if user.user_id in prompted.prompts]
        completions = _kept(users, self._complete(users, prompted.prompts), failed)
        completed = Completed(users=prompted.users, completions=completions, failed=failed)
        # A GPU that generates has no room for a second queue of work, and while another thread
        # uses it no graph can be captured: there the lists come before the next part.
        return completed if self._loaded.model.device.type == "cpu" else self._with_lists(completed)

    def tables(self, completed: Completed) -> tuple[pa.Table, pa.Table]:
        """Rank and make the rows of both tables; may run in a thread beside the other two."""
        completed = completed if completed.lists is not None else self._with_lists(completed)
        lists, failed = completed.lists or {}, completed.failed
        reasons = [
            _error_row(user, failed[user.user_id])
            if user.user_id in failed
            else self._reasoning_row(user, completed.completions[user.user_id])
            for user in completed.users
        ]
        return (
            self._list_rows(lists),
            pa.Table.from_pylist(reasons, schema=schemas.REASONING.schema),
        )

    def _with_lists(self, completed: Completed) -> Completed:
        completions, failed = completed.completions, dict(completed.failed)
        users = [user for user in completed.users if user.user_id in completions]
        found = each_or_failure(users, lambda some: self._ranked(some, completions))
        return replace(completed, lists=_kept(users, found, failed), failed=failed)

    def _prompt(self, user: History) -> list[int] | Failure:
        """The ids of a user's prompt, or why there are none."""
        if user.fault:
            return Failure(user.fault)
        try:
            ids = self._prompt_encoder.user_ids(
                user, self._catalog, new_tokens=self._settings.reasoning_budget
            )
        except Exception as error:  # whatever a text does to the tokenizer, others go on
            return Failure(reason_of(error))
        # On a GPU an id beyond the table ends the process's use of the device.
        known = self._loaded.model.config.vocab_size
        if max(ids) >= known:
            return Failure(f"token {max(ids)} of the prompt is none of the model's {known:,}")
        return ids

    def _complete(
        self, users: Sequence[History], prompts: Mapping[str, list[int]]
    ) -> list[Completion | Failure]:
        """The reasoning of each user, with a finite state to rank by."""
        found = each_or_failure(users, lambda some: self._sampled(some, prompts))
        for place, completion in enumerate(found):
            if isinstance(completion, Failure) or _is_finite(completion):
                continue
            # Either the user's own prompt, or one before it in its place of the cache: what is
            # masked has weight 0, which makes NaN of a NaN.
            alone = each_or_failure([users[place]], lambda some: self._sampled(some, prompts))[0]
            if isinstance(alone, Completion) and not _is_finite(alone):
                alone = Failure("the user state is not finite: the model cannot read this prompt")
            found[place] = alone
        return found

    def _sampled(
        self, users: Sequence[History], prompts: Mapping[str, list[int]]
    ) -> list[Completion]:
        groups = sample(
            self._loaded.model,
            self._loaded.encoder,
            [prompts[user.user_id] for user in users],
            [user.user_id for user in users],
            self._settings.sampling(),
            batch_rows=self._batch_rows,
            cache_bytes=self._cache_bytes,
        )
        return [group[0] for group in groups]

    def _ranked(
        self, users: Sequence[History], completions: Mapping[str, Completion]
    ) -> list[tuple[list[float], list[int]]]:
        """Scores and item indices of each user's list, best first."""
        model = self._loaded.model
        states = [completions[user.user_id].state_H for user in users]
        scores_BK, index_BK = top_k(
            torch.stack(states).to(model.device),
            self._table_IH,
            min(self._settings.top_k, self._catalog.num_items),
            temperature=model.temperature,
            seen=None if self._settings.allow_repeat else [user.item_index for user in users],
            allowed_I=self._allowed_I,
        )
        found_B = (index_BK >= 0).sum(dim=1).tolist()
        return [
            (scores[:found], indices[:found])
            for scores, indices, found in zip(
                scores_BK.tolist(), index_BK.tolist(), found_B, strict=True
            )
        ]

    def _list_rows(self, lists: Mapping[str, tuple[list[float], list[int]]]) -> pa.Table:
        lengths = [len(indices) for _, indices in lists.values()]
        index_R = np.fromiter(chain.from_iterable(pair[1] for pair in lists.values()), np.int64)
        return pa.table(
            {
                "user_id": pa.array(list(lists), pa.string()).take(
                    pa.array(np.repeat(np.arange(len(lists)), lengths))
                ),
                "rank": pa.array([rank for n in lengths for rank in range(1, n + 1)], pa.int32()),
                "item_id": self._catalog.items.values("item_id", index_R),
                "item_index": pa.array(index_R),
                "score": pa.array(
                    chain.from_iterable(scores for scores, _ in lists.values()), pa.float32()
                ),
            },
            schema=schemas.RECOMMENDATIONS.schema,
        )

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


def _kept(
    users: Sequence[History], results: Sequence[Result | Failure], failed: dict[str, str]
) -> dict[str, Result]:
    """The results by user; the reasons of those without go into `failed`."""
    kept: dict[str, Result] = {}
    for user, result in zip(users, results, strict=True):
        if isinstance(result, Failure):
            failed[user.user_id] = result.reason
        else:
            kept[user.user_id] = result
    return kept


def _is_finite(completion: Completion) -> bool:
    return bool(completion.state_H.isfinite().all() and completion.logprobs_T.isfinite().all())


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
