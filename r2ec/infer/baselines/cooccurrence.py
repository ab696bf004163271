"""Item to item: what was bought near the user's last items by others.

Two items of one user's sequence count 1/distance, distance being that of their places, to both
sides; a candidate's score is the sum of its counts with the last items of the history, the latest
weighing most (1, 1/2, 1/3, …).

Shapes: B users, I items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2ec.infer.baselines.sequences import UserSequence
from r2ec.tables import Example

LAST_EVENTS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Cooccurrence:
    """Counts of pairs, by rows: those of item a are `weight[first[a]:first[a + 1]]`, with the
    items `other` of the same places. `counts_I` are the events of each item, for ties."""

    first: NDArray[np.int64]
    other: NDArray[np.int64]
    weight: NDArray[np.float64]
    counts_I: NDArray[np.int64]

    def scores(self, history: Sequence[int]) -> NDArray[np.float64]:
        """Score of every item after this history, (I,)."""
        scores_I = np.zeros(len(self.counts_I))
        for age, item in enumerate(reversed(history[-LAST_EVENTS:]), start=1):
            row = slice(self.first[item], self.first[item + 1])
            scores_I[self.other[row]] += self.weight[row] / age
        return scores_I


def build_cooccurrence(sequences: Sequence[UserSequence], num_items: int) -> Cooccurrence:
    """Count the pairs of all sequences, up to `LAST_EVENTS` places apart."""
    pairs, weights = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for sequence in sequences:
        items = np.array(sequence.items, dtype=np.int64)
        for distance in range(1, min(LAST_EVENTS, len(items) - 1) + 1):
            before, after = items[:-distance], items[distance:]
            different = before != after
            for a, b in ((before, after), (after, before)):
                pairs.append((a * num_items + b)[different])
                weights.append(np.full(int(different.sum()), 1.0 / distance))
    pair, place = np.unique(np.concatenate(pairs), return_inverse=True)
    weight = np.zeros(len(pair))
    np.add.at(weight, place, np.concatenate(weights))
    events = [item for sequence in sequences for item in sequence.items]
    return Cooccurrence(
        first=np.searchsorted(pair // num_items, np.arange(num_items + 1)),
        other=pair % num_items,
        weight=weight,
        counts_I=np.bincount(np.array(events, dtype=np.int64), minlength=num_items),
    )


def cooccurrence_ranks(model: Cooccurrence, examples: Sequence[Example]) -> NDArray[np.int64]:
    """Rank of each target (from 1) by score, then by popularity, then by `item_index`.

    Seen items don't compete; a target that was bought before does.
    """
    ranks = []
    for example in examples:
        target = example.target_index
        scores_I = model.scores(example.history.item_index)
        seen = [item for item in set(example.history.item_index) if item != target]
        scores_I[seen] = -1.0
        same = scores_I == scores_I[target]
        more = model.counts_I > model.counts_I[target]
        equal = model.counts_I == model.counts_I[target]
        before = np.arange(len(scores_I)) < target
        better = (scores_I > scores_I[target]) | (same & (more | (equal & before)))
        ranks.append(int(better.sum()) + 1)
    return np.array(ranks, dtype=np.int64)
