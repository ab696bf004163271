"""Bootstrap over users and seeds together: both are draws from what might have been.

Users are drawn with all their sequences. Shapes: S seeds, B sequences, R resamples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NUM_SAMPLES = 1000
LEVEL = 0.95


def interval(values_SB: FloatArray, users: Sequence[str] | None = None) -> tuple[float, float]:
    """95 % percentile interval of the mean over seeds and sequences.

    `users` [B] says whose each sequence is; without it each is of a user of its own.
    """
    draws = np.random.default_rng(0)
    return _bounds(_means(values_SB, _shares(values_SB.shape[1], users, draws), draws))


def paired_difference(
    a_SB: FloatArray, b_SB: FloatArray, users: Sequence[str] | None = None
) -> tuple[float, float, float]:
    """Mean of a - b and its interval: the same users are drawn for both, seeds for each alone.

    The numbers of seeds may differ. Raises `ValueError` where those of the sequences do.
    """
    if a_SB.shape[1] != b_SB.shape[1]:
        raise ValueError(f"{a_SB.shape[1]} and {b_SB.shape[1]} sequences cannot be paired")
    draws = np.random.default_rng(0)
    shares_RB = _shares(a_SB.shape[1], users, draws)
    low, high = _bounds(_means(a_SB, shares_RB, draws) - _means(b_SB, shares_RB, draws))
    return float(a_SB.mean() - b_SB.mean()), low, high


def _shares(
    num_sequences: int, users: Sequence[str] | None, draws: np.random.Generator
) -> FloatArray:
    """How often each sequence is drawn, over the number of all that are: (R, B)."""
    user_B = np.arange(num_sequences)
    if users is not None:
        _, user_B = np.unique(np.asarray(users), return_inverse=True)
    num_users = int(user_B.max()) + 1
    drawn_RU = draws.integers(num_users, size=(NUM_SAMPLES, num_users))
    counts = np.array([np.bincount(drawn_U, minlength=num_users)[user_B] for drawn_U in drawn_RU])
    shares_RB: FloatArray = counts / counts.sum(axis=1, keepdims=True)
    return shares_RB


def _means(values_SB: FloatArray, shares_RB: FloatArray, draws: np.random.Generator) -> FloatArray:
    """Mean of each resample (R,)."""
    num_seeds = len(values_SB)
    shares_RS = draws.multinomial(num_seeds, [1 / num_seeds] * num_seeds, NUM_SAMPLES) / num_seeds
    means: FloatArray = (shares_RS * (shares_RB @ values_SB.T)).sum(axis=1)
    return means


def _bounds(means_R: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(means_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
