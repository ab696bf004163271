"""The baselines that count, against counts made by hand."""

import numpy as np
import pytest

from r2ec.infer.baselines.cooccurrence import build_cooccurrence, cooccurrence_ranks
from r2ec.infer.baselines.popularity import (
    DAY,
    popularity_counts,
    popularity_ranks,
    recent_counts,
)
from r2ec.infer.baselines.sequences import UserSequence, train_sequences
from r2ec.tables import Example, History


def example(user: str, items: tuple[int, ...], target: int, now: int = 99) -> Example:
    history = History(
        user_id=user,
        item_index=items,
        rating=(None,) * len(items),
        time=tuple(range(len(items))),
        now=now,
    )
    return Example(sequence_id=0, history=history, target_index=target)


def sequence(*items: int, times: tuple[int, ...] = ()) -> UserSequence:
    return UserSequence(items=list(items), times=list(times or range(len(items))))


def test_each_event_counts_once() -> None:
    train = [example("a", (0,), 1), example("a", (0, 1), 1), example("b", (2,), 1)]
    assert popularity_counts(train_sequences(train), 4).tolist() == [1, 3, 1, 0]


def test_a_users_sequence_is_in_order_of_time_wherever_its_rows_stand() -> None:
    log = (0, 3, 1, 2)
    by_time = [example("a", log[:place], log[place], now=10 + place) for place in (1, 2, 3)]
    at_one_time = [example("a", log[:place], log[place]) for place in (1, 2, 3)]
    for rows in (by_time, at_one_time):
        (found,) = train_sequences(rows[::-1])
        assert found.items == list(log)


def test_ranks_go_by_count_then_by_index_and_leave_out_what_was_seen() -> None:
    counts = np.array([5, 9, 5, 1])
    ranks = popularity_ranks(
        counts, [example("a", (), 2), example("b", (1,), 2), example("c", (2, 1), 2)]
    )
    assert ranks.tolist() == [3, 2, 2]


def test_recent_popularity_counts_the_last_days_of_training_alone() -> None:
    sequences = [sequence(0, 1, times=(0, 80 * DAY)), sequence(0, 2, times=(70 * DAY, 100 * DAY))]
    assert recent_counts(sequences, 3, days=30).tolist() == [1, 1, 1]
    assert recent_counts(sequences, 3, days=20).tolist() == [0, 1, 1]
    assert recent_counts(sequences, 3, days=19).tolist() == [0, 0, 1]


def test_pairs_count_the_inverse_of_their_distance_to_both_sides() -> None:
    model = build_cooccurrence([sequence(0, 1, 2), sequence(1, 0)], 4)
    assert model.scores([0]).tolist() == pytest.approx([0, 2, 0.5, 0])
    assert model.scores([2]).tolist() == pytest.approx([0.5, 1, 0, 0])
    # The latest item of a history weighs 1, the one before it 1/2.
    assert model.scores([2, 0]).tolist() == pytest.approx([0.25, 2.5, 0.5, 0])


def test_cooccurrence_breaks_ties_by_popularity_and_leaves_out_what_was_seen() -> None:
    model = build_cooccurrence([sequence(0, 1), sequence(0, 1), sequence(0, 3), sequence(4, 4)], 6)
    ranked = [example("a", (0,), target) for target in (1, 3, 4, 2, 5)]
    assert cooccurrence_ranks(model, ranked).tolist() == [1, 2, 3, 4, 5]
    seen = [example("a", (0, 3), target) for target in (1, 3)]
    assert cooccurrence_ranks(model, seen).tolist() == [1, 2], "3 competes as a target alone"


def test_a_repeated_item_is_no_pair_with_itself() -> None:
    model = build_cooccurrence([sequence(0, 0, 1)], 2)
    assert model.scores([0]).tolist() == pytest.approx([0, 1.5])
