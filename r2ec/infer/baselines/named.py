"""The baselines by name: each ranks the target of every example, knowing the training split."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from r2ec.catalog import load_catalog
from r2ec.errors import NotReadyError
from r2ec.infer.baselines.cooccurrence import build_cooccurrence, cooccurrence_ranks
from r2ec.infer.baselines.popularity import popularity_counts, popularity_ranks, recent_counts
from r2ec.infer.baselines.sequences import train_sequences
from r2ec.storage import Warehouse
from r2ec.tables import Example, load_examples

BASELINES = ("popularity", "recent-popularity", "cooccurrence", "sasrec")


def baseline_ranks(
    warehouse: Warehouse,
    name: str,
    examples: Sequence[Example],
    *,
    seed: int = 0,
    weights: str | None = None,
) -> NDArray[np.int64]:
    """Rank of each target (from 1) under a baseline made from the training split alone.

    SASRec stops training by the valid split, as the models do; `seed` is its, and `weights` a file
    from which it is read, or to which it is written after its training. Raises `ValueError`
    for a name that is none of `BASELINES`, `NotReadyError` for a training split without events.
    """
    if name not in BASELINES:
        raise ValueError(f"baseline {name!r}: choose one of {', '.join(BASELINES)}")
    num_items = load_catalog(warehouse).num_items
    sequences = train_sequences(load_examples(warehouse, "train"))
    if not sequences:
        raise NotReadyError(f"sequences/split=train of {warehouse.root} is empty")
    if name == "popularity":
        return popularity_ranks(popularity_counts(sequences, num_items), examples)
    if name == "recent-popularity":
        return popularity_ranks(recent_counts(sequences, num_items), examples)
    if name == "cooccurrence":
        return cooccurrence_ranks(build_cooccurrence(sequences, num_items), examples)
    from r2ec.infer.baselines.sasrec import (
        SasrecSettings,
        kept_sasrec,
        sasrec_ranks,
        train_sasrec,
    )

    settings = replace(SasrecSettings(), seed=seed)
    valid = load_examples(warehouse, "valid")
    if not valid:
        raise NotReadyError(f"sequences/split=valid of {warehouse.root} is empty")
    model = kept_sasrec(
        weights,
        warehouse,
        lambda: train_sasrec(sequences, valid, num_items, settings),
        num_items,
        settings,
    )
    return sasrec_ranks(model, examples, settings)
