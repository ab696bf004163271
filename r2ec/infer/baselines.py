"""Baselines that need no model: popularity.

Shapes: B users, I items.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from r2ec.tables import Example, History


def popularity_counts(train: Sequence[Example], num_items: int) -> NDArray[np.int64]:
    """Events of each item in the training split, (I,): targets, and each user's first history.

    A user's events up to the cut are the history of the earliest sequence and all targets; later
    histories repeat them. The examples may come in any order: `sequence_id` follows the place in
    the log, which need not be that of time.
    """
    counts = np.zeros(num_items, dtype=np.int64)
    earliest: dict[str, History] = {}
    for example in train:
        counts[example.target_index] += 1
        history = example.history
        known = earliest.setdefault(history.user_id, history)
        if _place_in_time(history) < _place_in_time(known):
            earliest[history.user_id] = history
    for history in earliest.values():
        np.add.at(counts, np.array(history.item_index, dtype=np.int64), 1)
    return counts


def _place_in_time(history: History) -> tuple[int, int]:
    """By the time of the target; within one time the history grows."""
    return history.now, len(history.item_index)


def popularity_ranks(counts_I: NDArray[np.int64], examples: Sequence[Example]) -> NDArray[np.int64]:
    """Rank of each target (from 1) by count, ties by `item_index`; seen items don't compete.

    A target that was bought before still competes.
    """
    order = np.lexsort((np.arange(len(counts_I)), -counts_I))
    place_I = np.empty_like(order)
    place_I[order] = np.arange(1, len(order) + 1)
    ranks = []
    for example in examples:
        place = place_I[example.target_index]
        seen = set(example.history.item_index) - {example.target_index}
        ranks.append(place - sum(1 for item in seen if place_I[item] < place))
    return np.array(ranks, dtype=np.int64)
