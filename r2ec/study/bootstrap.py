"""Bootstrap over users and seeds together: both are draws from what might have been.

Shapes: S seeds, U users, R resamples.
"""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NUM_SAMPLES = 1000
LEVEL = 0.95


def interval(values_SU: FloatArray) -> tuple[float, float]:
    """95 % percentile interval of the mean over seeds and users."""
    draws = np.random.default_rng(0)
    return _bounds(_means(values_SU, _user_shares(values_SU.shape[1], draws), draws))


def paired_difference(a_SU: FloatArray, b_SU: FloatArray) -> tuple[float, float, float]:
    """Mean of a - b and its interval: the same users are drawn for both, seeds for each alone.

    The numbers of seeds may differ. Raises `ValueError` where those of the users do.
    """
    if a_SU.shape[1] != b_SU.shape[1]:
        raise ValueError(f"{a_SU.shape[1]} and {b_SU.shape[1]} users cannot be paired")
    draws = np.random.default_rng(0)
    shares_RU = _user_shares(a_SU.shape[1], draws)
    low, high = _bounds(_means(a_SU, shares_RU, draws) - _means(b_SU, shares_RU, draws))
    return float(a_SU.mean() - b_SU.mean()), low, high


def _user_shares(num_users: int, draws: np.random.Generator) -> FloatArray:
    """How often each user is drawn, over their number: (R, U)."""
    drawn_RU = draws.integers(num_users, size=(NUM_SAMPLES, num_users))
    counts = [np.bincount(drawn_U, minlength=num_users) for drawn_U in drawn_RU]
    return np.array(counts) / num_users


def _means(values_SU: FloatArray, shares_RU: FloatArray, draws: np.random.Generator) -> FloatArray:
    """Mean of each resample (R,)."""
    num_seeds = len(values_SU)
    shares_RS = draws.multinomial(num_seeds, [1 / num_seeds] * num_seeds, NUM_SAMPLES) / num_seeds
    means: FloatArray = (shares_RS * (shares_RU @ values_SU.T)).sum(axis=1)
    return means


def _bounds(means_R: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(means_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
