"""The same list for everybody: by events of the training split, all of them or the latest.

Shapes: B users, I items.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from r2ec.infer.baselines.sequences import UserSequence
from r2ec.tables import Example

DAY = 86_400_000_000
RECENT_DAYS = 30


def popularity_counts(
    sequences: Sequence[UserSequence], num_items: int, *, since: int | None = None
) -> NDArray[np.int64]:
    """Events of each item, (I,), at or after `since` (microseconds) where it is given."""
    items = [
        item
        for sequence in sequences
        for item, time in zip(sequence.items, sequence.times, strict=True)
        if since is None or time >= since
    ]
    return np.bincount(np.array(items, dtype=np.int64), minlength=num_items)


def recent_counts(
    sequences: Sequence[UserSequence], num_items: int, days: int = RECENT_DAYS
) -> NDArray[np.int64]:
    """Events of each item in the last `days` of the training split, (I,).

    Nothing after the first cut is looked at: the days are counted from the last training event.
    """
    last = max((sequence.times[-1] for sequence in sequences), default=0)
    return popularity_counts(sequences, num_items, since=last - days * DAY)


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
