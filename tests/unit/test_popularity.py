"""The popularity baseline against counts made by hand."""

import numpy as np

from r2ec.infer.baselines import popularity_counts, popularity_ranks
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


def test_each_event_counts_once() -> None:
    train = [example("a", (0,), 1), example("a", (0, 1), 1), example("b", (2,), 1)]
    assert popularity_counts(train, 4).tolist() == [1, 3, 1, 0]


def test_a_users_first_history_is_that_of_the_earliest_target_wherever_it_stands() -> None:
    log = (0, 1, 2, 3)
    by_time = [example("a", log[:place], log[place], now=10 + place) for place in (1, 2, 3)]
    assert popularity_counts(by_time[::-1], 4).tolist() == [1, 1, 1, 1]
    at_one_time = [example("a", log[:place], log[place]) for place in (1, 2, 3)]
    assert popularity_counts(at_one_time[::-1], 4).tolist() == [1, 1, 1, 1]


def test_ranks_go_by_count_then_by_index_and_leave_out_what_was_seen() -> None:
    counts = np.array([5, 9, 5, 1])
    ranks = popularity_ranks(
        counts, [example("a", (), 2), example("b", (1,), 2), example("c", (2, 1), 2)]
    )
    assert ranks.tolist() == [3, 2, 2]
