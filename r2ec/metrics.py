"""Ranking metrics with one target per sequence, and their bootstrap intervals over users.

A mean is over sequences. A user may have several, which are hard or easy together: what is drawn
again for an interval are therefore users, each with all of theirs.

A rank is the 1-based position of the target among all items of the catalog. The reward of RecPO
is `ndcg_at_k` of the same rank, so that training and evaluation agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_RESAMPLED_VALUES = 4_000_000  # values drawn at once: bounds the memory of a bootstrap


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricValue:
    """Mean of one metric over sequences with its interval over users.

    `metric` is `hit_rate@K` or `ndcg@K`; `sequences` of `users` different users were ranked.
    """

    metric: str
    value: float
    ci_low: float
    ci_high: float
    users: int
    sequences: int


def hit_rate_at_k(ranks: NDArray[np.integer], k: int) -> FloatArray:
    """1 where rank <= k, else 0; shape [B] of 1-based `ranks` [B]."""
    return (_checked_ranks(ranks, k) <= k).astype(np.float64)


def ndcg_at_k(ranks: NDArray[np.integer], k: int) -> FloatArray:
    """1 / log2(rank + 1) where rank <= k, else 0; shape [B] of 1-based `ranks` [B]."""
    ranks = _checked_ranks(ranks, k)
    return np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)


def bootstrap_interval(
    values: FloatArray,
    *,
    users: Sequence[str] | None = None,
    seed: int,
    num_samples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` [B], whole users drawn again.

    `users` [B] says whose each value is; without it each is of a user of its own. The same values
    and seed give the same interval. Raises `ValueError` for no values, values that are not finite,
    another number of users than of values, or a level outside (0, 1).
    """
    values = _checked_values(values)
    if not 0 < level < 1:
        raise ValueError(f"level={level}: an interval needs a level between 0 and 1, such as 0.95")
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples}: a bootstrap needs at least one sample")
    means = _resampled_means(values, users, np.random.default_rng(seed), num_samples)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap_difference(
    a: FloatArray,
    b: FloatArray,
    *,
    users: Sequence[str] | None = None,
    seed: int,
    num_samples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Mean of a - b [B] over the same sequences in the same order, and its bootstrap interval.

    `users` [B] as in `bootstrap_interval`. The difference is one of a and b when the interval
    leaves 0 out. Raises `ValueError` when the shapes differ.
    """
    a, b = _checked_values(a), _checked_values(b)
    if a.shape != b.shape:
        raise ValueError(
            f"a has {a.size} values and b {b.size}: pair the same sequences in one order"
        )
    difference = a - b
    low, high = bootstrap_interval(
        difference, users=users, seed=seed, num_samples=num_samples, level=level
    )
    return float(difference.mean()), low, high


def summarise(
    ranks: NDArray[np.integer],
    *,
    users: Sequence[str] | None = None,
    ks: Sequence[int] = (5, 10, 20),
    seed: int = 0,
) -> list[MetricValue]:
    """Hit rate and NDCG at each k of 1-based `ranks` [B], with 95 % intervals over users.

    `users` [B] says whose sequence each rank is of; without it each is of a user of its own. First
    the hit rates, then the NDCGs, each in the order of `ks`. Raises `ValueError` for no ranks, a
    rank or a k below 1, ranks that are not whole numbers, another number of users than of ranks.
    """
    rows = []
    for name, metric in (("hit_rate", hit_rate_at_k), ("ndcg", ndcg_at_k)):
        for k in ks:
            values = metric(ranks, k)
            low, high = bootstrap_interval(values, users=users, seed=seed)
            rows.append(
                MetricValue(
                    metric=f"{name}@{k}",
                    value=float(values.mean()),
                    ci_low=low,
                    ci_high=high,
                    users=values.size if users is None else len(set(users)),
                    sequences=values.size,
                )
            )
    return rows


def _resampled_means(
    values: FloatArray,
    users: Sequence[str] | None,
    generator: np.random.Generator,
    num_samples: int,
) -> FloatArray:
    sums_U, counts_U = _by_user(values, users)
    means = np.empty(num_samples)
    step = max(1, _RESAMPLED_VALUES // sums_U.size)
    for start in range(0, num_samples, step):
        count = min(step, num_samples - start)
        drawn = generator.integers(sums_U.size, size=(count, sums_U.size))
        means[start : start + count] = sums_U[drawn].sum(axis=1) / counts_U[drawn].sum(axis=1)
    return means


def _by_user(values: FloatArray, users: Sequence[str] | None) -> tuple[FloatArray, FloatArray]:
    """Sum and number of each user's values."""
    if users is None:
        return values, np.ones_like(values)
    if len(users) != values.size:
        raise ValueError(f"{len(users)} users for {values.size} values: name one for each")
    _, user_B = np.unique(np.asarray(users), return_inverse=True)
    sums_U: FloatArray = np.bincount(user_B, weights=values).astype(np.float64)
    return sums_U, np.bincount(user_B).astype(np.float64)


def _checked_ranks(ranks: NDArray[np.integer], k: int) -> NDArray[np.integer]:
    ranks = np.asarray(ranks)
    if k < 1:
        raise ValueError(f"k={k}: a cut-off is at least 1")
    if ranks.ndim != 1 or not np.issubdtype(ranks.dtype, np.integer):
        raise ValueError(f"ranks must be one integer per sequence, got {ranks.dtype} {ranks.shape}")
    if ranks.size and ranks.min() < 1:
        raise ValueError(f"rank {ranks.min()}: ranks count from 1")
    return ranks


def _checked_values(values: FloatArray) -> FloatArray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"need one value per sequence and at least one, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite: a mean would hide it")
    return values
