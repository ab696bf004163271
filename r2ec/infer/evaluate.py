"""Ranks of the items bought next: under a model, by greedy reasoning and the full catalog, and on
the lists of a published date."""

from collections.abc import Sequence
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2ec import sql_files
from r2ec.catalog import Catalog, load_catalog
from r2ec.config import TrainConfig
from r2ec.errors import NotReadyError
from r2ec.infer.embed import default_device, embeddings_for
from r2ec.model.card import check_catalog
from r2ec.model.checkpoint import load_base, load_model
from r2ec.model.context import check_context
from r2ec.model.dual_head import DualHeadModel
from r2ec.retrieval.embed import embed_items
from r2ec.retrieval.rank import target_ranks
from r2ec.sampler import SamplingSettings, sample
from r2ec.storage import Warehouse
from r2ec.tables import Example, check_targets, load_examples
from r2ec.text.tokens import PromptEncoder
from r2ec.warehouse_views import run_query, with_views

BATCH_USERS = 256
# The rank of a target that is on no list: below every cut-off.
NOT_LISTED = 2**31 - 1


def evaluation_examples(
    warehouse: Warehouse, split: str, max_users: int | None = None
) -> list[Example]:
    """The sequences of a split (`train`, `valid`, `test`), or a fixed draw of `max_users` of them.

    Raises `NotReadyError` if the split is not there or empty.
    """
    examples = load_examples(warehouse, split)
    if not examples:
        raise NotReadyError(f"sequences/split={split} of {warehouse.root} is empty")
    if max_users is not None and len(examples) > max_users:
        examples = Random(0).sample(examples, max_users)
    return examples


def trained_ranks(
    warehouse: Warehouse,
    model_dir: str,
    examples: Sequence[Example],
    *,
    reasoning_budget: int,
    device: str | None = None,
) -> NDArray[np.int64]:
    """Rank of each target (from 1) under a trained model, int64 (B,); see `greedy_ranks`.

    `reasoning_budget` in tokens; 0 ranks without reasoning. Items whose embedding is in the table
    are not encoded again. Raises `NotReadyError` without catalog or model, `UsageError` for a
    catalog the model does not know and for a device that is not there.
    """
    catalog = load_catalog(warehouse)
    loaded = load_model(model_dir, device=default_device(device))
    check_catalog(loaded.card, catalog, model_dir)
    table_IH, _ = embeddings_for(warehouse, loaded, catalog)
    return greedy_ranks(
        loaded.model, loaded.encoder, catalog, table_IH, examples, reasoning_budget=reasoning_budget
    )


def published_ranks(warehouse: Warehouse, date: str, *, days: int = 7) -> NDArray[np.int64]:
    """Where the lists of a published date had what their users bought next, int64 (B,), from 1.

    One rank for each user who was on a list and bought something within `days` days after `date`
    (an ISO day), by `user_id`; `NOT_LISTED` where the item is not on the user's list, so a cut-off
    beyond the length of the lists tells no more than their length does. The purchases are those of
    `sequences`. Raises `UsageError` for a date that is no day, `NotReadyError` for one that is not
    published or that no such user followed.
    """
    query = sql_files.find_sql("ranks_of_next_purchases")
    values = {"date": date, "days": str(days)}
    rows = with_views(warehouse, lambda views: run_query(views, query, values))
    if date not in warehouse.partitions("runs", "date"):
        raise NotReadyError(f"{date} is not published in {warehouse.root}")
    if not rows.num_rows:
        raise NotReadyError(
            f"{warehouse.root}: no user of the lists of {date} bought anything within {days} days"
            " after it; build sequences from a log that goes further, or give more days"
        )
    ranks_B: NDArray[np.int64] = rows["rank"].fill_null(NOT_LISTED).cast(pa.int64()).to_numpy()
    return ranks_B


def published_list_length(warehouse: Warehouse, date: str) -> int:
    """Items of the longest list of a published date, 0 where there is none."""
    query = "SELECT max(rank) FROM v_recommendations WHERE date = $date"
    rows = with_views(warehouse, lambda views: views.execute(query, {"date": date}).fetchall())
    return int(rows[0][0] or 0)


def untrained_ranks(
    warehouse: Warehouse,
    model_dir: str,
    config: TrainConfig,
    examples: Sequence[Example],
    *,
    reasoning_budget: int,
    device: str | None = None,
) -> NDArray[np.int64]:
    """Rank of each target (from 1) under a plain language model with a configuration's prompts."""
    catalog = load_catalog(warehouse)
    model, encoder, _ = load_base(
        model_dir, model=config.model, prompt=config.prompt, device=default_device(device)
    )
    rows = [encoder.item_ids(item) for item in catalog.items]
    table_IH = embed_items(model.eval(), rows, pad_id=next(iter(encoder.stop_ids)))
    return greedy_ranks(
        model, encoder, catalog, table_IH, examples, reasoning_budget=reasoning_budget
    )


def greedy_ranks(
    model: DualHeadModel,
    encoder: PromptEncoder,
    catalog: Catalog,
    table_IH: Tensor,
    examples: Sequence[Example],
    *,
    reasoning_budget: int,
) -> NDArray[np.int64]:
    """Rank of each target (from 1) after a greedy reasoning of at most `reasoning_budget` tokens.

    Seen items don't compete; a target that was bought before does. Raises `NotReadyError` for a
    target that the catalog does not hold.
    """
    check_targets(examples, catalog)
    check_context(encoder, reasoning_budget, "--reasoning-budget")
    settings = SamplingSettings(
        temperature=0.0, top_k=0, top_p=1.0, max_new_tokens=reasoning_budget
    )
    prompts = [
        encoder.user_ids(example.history, catalog, new_tokens=reasoning_budget)
        for example in examples
    ]
    keys = [example.history.user_id for example in examples]
    groups = sample(model, encoder, prompts, keys, settings, batch_rows=BATCH_USERS)
    ranks = target_ranks(
        torch.stack([group[0].state_H for group in groups]).to(model.device),
        table_IH.to(model.device),
        torch.tensor([example.target_index for example in examples], device=model.device),
        temperature=model.temperature,
        seen=[example.history.item_index for example in examples],
        ties="worst",
    )
    return ranks.cpu().numpy()


def save_ranks(file: str, examples: Sequence[Example], ranks: NDArray[np.int64]) -> None:
    """One row a sequence, for paired comparisons: `sequence_id`, `user_id`, `rank`, as Parquet."""
    table = pa.table(
        {
            "sequence_id": pa.array([e.sequence_id for e in examples], pa.int64()),
            "user_id": [example.history.user_id for example in examples],
            "rank": pa.array(ranks, pa.int64()),
        }
    )
    pq.write_table(table.sort_by("sequence_id"), file)
