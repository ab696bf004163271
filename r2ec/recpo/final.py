"""The end of a training: the delivered model is evaluated once on valid and once on test.

Nothing is chosen by test: it is read when the training is over, for the table `metrics` alone.
"""

from collections.abc import Sequence

import torch

from r2ec.catalog import Catalog
from r2ec.config import TrainConfig
from r2ec.logs import get_logger
from r2ec.metric_rows import record_metrics
from r2ec.model.checkpoint import LoadedModel, load_model
from r2ec.recpo.engine import World
from r2ec.retrieval.embed import embed_items
from r2ec.retrieval.rank import target_ranks
from r2ec.sampler import SamplingSettings, sample
from r2ec.storage import Warehouse
from r2ec.tables import Example, check_targets, load_examples

_LOG = get_logger(__name__)
CUT_OFFS = (5, 10, 20)


def evaluate_delivered(config: TrainConfig, world: World, catalog: Catalog) -> None:
    """Evaluate the model at `paths.output` on all of valid and test; every rank takes its share.

    The rows stand under the run that `r2ec-cli evaluate` would give them. A split without rows is
    left out, with a line that says so.
    """
    loaded = load_model(config.paths.output, device=world.device)
    budget = config.evaluation.reasoning_budget
    rows = [loaded.encoder.item_ids(item) for item in catalog.items]
    mine = embed_items(loaded.model, world.share(rows), pad_id=next(iter(loaded.encoder.stop_ids)))
    table_IH = world.gather_rows(mine, len(rows)).to(loaded.model.device)
    warehouse = Warehouse(config.paths.warehouse)
    for split in ("valid", "test"):
        examples = load_examples(warehouse, split)
        if not examples:
            _LOG.warning("sequences/split=%s is empty: not evaluated", split)
            continue
        check_targets(examples, catalog)
        own = world.share(examples)
        ranks = _greedy_ranks(loaded, catalog, table_IH, own, budget, config.evaluation.batch_rows)
        whole = world.gather_rows(ranks, len(examples)).cpu().numpy()
        if not world.is_first:
            continue
        fingerprint = loaded.card.fingerprint
        values = record_metrics(
            warehouse,
            run_id=f"{fingerprint}-budget-{budget}",
            model=fingerprint,
            split=split,
            ranks=whole,
            users=[example.history.user_id for example in examples],
            ks=CUT_OFFS,
        )
        named = {value.metric: value for value in values}
        told = ", ".join(
            f"{name} {named[metric].value:.4f} [{named[metric].ci_low:.4f},"
            f" {named[metric].ci_high:.4f}]"
            for name, metric in (("N@10", "ndcg@10"), ("H@10", "hit_rate@10"))
        )
        num_users = named["ndcg@10"].users
        _LOG.info(
            "%s, once at the end: %s (%d sequences of %d users)", split, told, len(whole), num_users
        )


def _greedy_ranks(
    loaded: LoadedModel,
    catalog: Catalog,
    table_IH: torch.Tensor,
    examples: Sequence[Example],
    budget: int,
    batch_rows: int,
) -> torch.Tensor:
    """Ranks (B,) after a greedy reasoning; seen items don't compete, a target always does."""
    if not examples:
        return torch.empty(0, dtype=torch.int64)
    settings = SamplingSettings(temperature=0.0, top_k=0, top_p=1.0, max_new_tokens=budget)
    prompts = [
        loaded.encoder.user_ids(example.history, catalog, new_tokens=budget) for example in examples
    ]
    keys = [example.history.user_id for example in examples]
    groups = sample(loaded.model, loaded.encoder, prompts, keys, settings, batch_rows=batch_rows)
    return target_ranks(
        torch.stack([group[0].state_H for group in groups]).to(loaded.model.device),
        table_IH,
        torch.tensor([e.target_index for e in examples], device=loaded.model.device),
        temperature=loaded.model.temperature,
        seen=[example.history.item_index for example in examples],
        ties="worst",
    ).cpu()
