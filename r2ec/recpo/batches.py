"""Which examples are in which batch: a pure function of (seed, step), so a resume needs no state.

Shapes: B users of the global batch.
"""

from collections.abc import Sequence

import numpy as np

from r2ec.tables import Example


def batch_at(examples: Sequence[Example], step: int, batch_users: int, seed: int) -> list[Example]:
    """The global batch of a step (from 0): B examples from an endless stream of shuffled epochs.

    Fewer than B examples in all give smaller batches; no example stands twice in one epoch.
    Raises `ValueError` when there are none.
    """
    if not examples:
        raise ValueError("there are no training examples; sequences/split=train is empty")
    size = min(batch_users, len(examples))
    first = step * size
    chosen: list[Example] = []
    while len(chosen) < size:
        epoch, place = divmod(first + len(chosen), len(examples))
        order = np.random.default_rng([seed, epoch]).permutation(len(examples))
        chosen += [examples[row] for row in order[place : place + size - len(chosen)]]
    return chosen


def learning_rate(step: int, base: float, warmup_steps: int) -> float:
    """Linear warm-up over `warmup_steps`, then constant; `step` counts from 0."""
    return base * min(1.0, (step + 1) / max(1, warmup_steps))


def cut(rows: Sequence[int], size: int, num_chunks: int) -> list[list[int]]:
    """Cut rows into exactly `num_chunks` chunks of at most `size`; the last ones may be empty.

    Every rank must run the same number of chunks, whatever its number of rows. Raises `ValueError`
    where they do not hold all rows.
    """
    if len(rows) > size * num_chunks:
        raise ValueError(f"{len(rows)} rows do not fit into {num_chunks} chunks of {size}")
    return [list(rows[chunk * size : (chunk + 1) * size]) for chunk in range(num_chunks)]
