"""Greedy evaluation during training: fresh weights, fresh item rows, users shared by the ranks."""

from collections.abc import Sequence

import numpy as np
import torch

from r2ec.catalog import Catalog
from r2ec.recpo.engine import Engine
from r2ec.recpo.finite import check_states
from r2ec.recpo.items import ItemTable
from r2ec.retrieval.rank import target_ranks
from r2ec.sampler import SamplingSettings, sample
from r2ec.tables import Example
from r2ec.text.tokens import PromptEncoder


def validation_ranks(
    engine: Engine,
    table: ItemTable,
    encoder: PromptEncoder,
    catalog: Catalog,
    examples: Sequence[Example],
    *,
    reasoning_budget: int,
    batch_rows: int,
) -> np.ndarray:
    """Rank of each example's target (from 1) after a greedy reasoning, on every rank, int64.

    Refreshes `table`. A budget of 0 tokens ranks without reasoning. Seen items don't compete, but
    a target that was bought before still does.
    """
    world, model = engine.world, engine.model
    settings = SamplingSettings(
        temperature=0.0, top_k=0, top_p=1.0, max_new_tokens=reasoning_budget
    )
    mine = world.share(list(examples))
    prompts = [
        encoder.user_ids(example.history, catalog, new_tokens=reasoning_budget) for example in mine
    ]
    keys = [example.history.user_id for example in mine]
    with engine.whole_weights():
        table.refresh(engine)
        groups = sample(model, encoder, prompts, keys, settings, batch_rows=batch_rows)
    ranks = torch.empty(0, dtype=torch.int64)
    states_BH = torch.stack([group[0].state_H for group in groups]) if mine else torch.empty(0)
    check_states(world, states_BH, table.table_IH)
    if mine:
        ranks = target_ranks(
            states_BH.to(model.device),
            table.table_IH,
            torch.tensor([example.target_index for example in mine], device=model.device),
            temperature=model.temperature,
            seen=[example.history.item_index for example in mine],
            ties="worst",
        )
    return world.gather_rows(ranks.cpu(), len(examples)).numpy()
