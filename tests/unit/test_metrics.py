"""Ranking metrics and their intervals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ec.metrics import (
    bootstrap_interval,
    hit_rate_at_k,
    ndcg_at_k,
    paired_bootstrap_difference,
    summarise,
)

RANKS = st.lists(st.integers(1, 10**9), min_size=1, max_size=40)


@given(RANKS, st.integers(1, 1000))
def test_metrics_are_their_definitions(ranks: list[int], k: int) -> None:
    hits, gains = hit_rate_at_k(np.array(ranks), k), ndcg_at_k(np.array(ranks), k)
    for rank, hit, gain in zip(ranks, hits, gains, strict=True):
        assert hit == (1.0 if rank <= k else 0.0)
        assert gain == pytest.approx(1 / math.log2(rank + 1) if rank <= k else 0.0, rel=1e-12)


@given(RANKS, st.integers(1, 999))
def test_a_better_rank_or_a_larger_cutoff_never_lowers_a_metric(ranks: list[int], k: int) -> None:
    rank = np.sort(np.array(ranks))
    for metric in (hit_rate_at_k, ndcg_at_k):
        assert np.all(np.diff(metric(rank, k)) <= 0)
        assert np.all(metric(rank, k) <= metric(rank, k + 1))
        assert np.all((metric(rank, k) >= 0) & (metric(rank, k) <= 1))


def test_the_first_rank_counts_one_whatever_the_cutoff() -> None:
    assert ndcg_at_k(np.array([1, 3, 7, 8]), 7).tolist() == [1.0, 0.5, pytest.approx(1 / 3), 0.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_an_interval_is_repeatable_and_lies_within_the_values(
    values: list[float], seed: int
) -> None:
    array = np.array(values)
    low, high = bootstrap_interval(array, seed=seed, num_samples=50)
    assert (low, high) == bootstrap_interval(array, seed=seed, num_samples=50)
    assert array.min() - 1e-12 <= low <= high <= array.max() + 1e-12


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        low, high = bootstrap_interval(generator.random(80), seed=seed, num_samples=400, level=0.9)
        covered += low <= 0.5 <= high
    assert 0.85 < covered / 300 < 0.94


def test_an_interval_of_repeated_users_is_that_of_the_users() -> None:
    per_user = np.random.default_rng(4).random(60)
    repeated, users = np.repeat(per_user, 20), np.repeat([f"u{n:02}" for n in range(60)], 20)
    assert bootstrap_interval(repeated, users=users, seed=7) == pytest.approx(
        bootstrap_interval(per_user, seed=7)
    )
    low, high = bootstrap_interval(repeated, seed=7)
    assert high - low < 0.3 * np.subtract(*bootstrap_interval(per_user, seed=7)[::-1])


def test_an_interval_over_users_covers_the_mean_where_some_have_many_sequences() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        counts = generator.integers(1, 12, size=60)
        values = np.repeat(generator.random(60), counts) + 0.1 * generator.standard_normal(
            counts.sum()
        )
        users = np.repeat(np.arange(60).astype(str), counts)
        low, high = bootstrap_interval(values, users=users, seed=seed, num_samples=400, level=0.9)
        covered += low <= 0.5 <= high
    assert 0.84 < covered / 300 < 0.95


def test_the_draws_do_not_depend_on_how_many_are_made_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(1).random(97)
    whole = bootstrap_interval(values, seed=3)
    monkeypatch.setattr("r2ec.metrics._RESAMPLED_VALUES", 97 * 7)
    assert bootstrap_interval(values, seed=3) == whole


def test_a_paired_difference_sees_what_separate_intervals_do_not() -> None:
    generator = np.random.default_rng(2)
    b = generator.random(200)
    a = b + 0.02 + 0.01 * generator.standard_normal(200)
    mean, low, high = paired_bootstrap_difference(a, b, seed=0)
    assert 0 < low < mean < high
    assert bootstrap_interval(b, seed=0)[1] > bootstrap_interval(a, seed=0)[0]
    assert paired_bootstrap_difference(b, b, seed=0) == (0.0, 0.0, 0.0)


def test_a_summary_has_both_metrics_at_each_cutoff() -> None:
    rows = summarise(np.array([1, 6, 50]), users=["b", "a", "b"], ks=(5, 10), seed=1)
    assert [row.metric for row in rows] == ["hit_rate@5", "hit_rate@10", "ndcg@5", "ndcg@10"]
    assert [round(row.value, 4) for row in rows] == [0.3333, 0.6667, 0.3333, 0.4521]
    assert all(row.ci_low <= row.value <= row.ci_high for row in rows)
    assert {(row.users, row.sequences) for row in rows} == {(2, 3)}


@pytest.mark.parametrize(
    ("ranks", "k"), [([0], 5), ([-1, 3], 5), ([1], 0), ([1.0], 5), ([[1]], 5), ([True], 5)]
)
def test_ranks_that_are_no_ranks_are_refused(ranks: list[float], k: int) -> None:
    for metric in (hit_rate_at_k, ndcg_at_k):
        with pytest.raises(ValueError):
            metric(np.array(ranks), k)


def test_values_that_would_poison_a_mean_are_refused() -> None:
    for values in ([], [float("nan")], [float("inf"), 1.0]):
        with pytest.raises(ValueError):
            bootstrap_interval(np.array(values), seed=0)
    with pytest.raises(ValueError, match="2 users for 3 values"):
        bootstrap_interval(np.ones(3), users=["a", "b"], seed=0)
    with pytest.raises(ValueError, match="3 values and b 2"):
        paired_bootstrap_difference(np.ones(3), np.ones(2), seed=0)
    with pytest.raises(ValueError, match=r"level=1\.0"):
        bootstrap_interval(np.ones(3), seed=0, level=1.0)
