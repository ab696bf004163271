"""What the training split holds of each user, put together again from its overlapping rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from r2ec.tables import Example, History


@dataclass(frozen=True, kw_only=True, slots=True)
class UserSequence:
    """One user's events up to the first cut, oldest first: items, and times in microseconds.

    Events before the first row's history, which the window left out, are not there.
    """

    items: list[int]
    times: list[int]


def train_sequences(train: Sequence[Example]) -> list[UserSequence]:
    """One sequence a user: the history of the earliest row, then the targets in order of time.

    Rows may come in any order: `sequence_id` follows the place in the log, which need not be that
    of time. Users are in order of `user_id`.
    """
    rows: dict[str, list[Example]] = {}
    for example in train:
        rows.setdefault(example.history.user_id, []).append(example)
    sequences = []
    for user_id in sorted(rows):
        ordered = sorted(rows[user_id], key=lambda example: place_in_time(example.history))
        first = ordered[0].history
        sequences.append(
            UserSequence(
                items=[*first.item_index, *(example.target_index for example in ordered)],
                times=[*first.time, *(example.history.now for example in ordered)],
            )
        )
    return sequences


def place_in_time(history: History) -> tuple[int, int]:
    """By the time of the target; within one time the history grows."""
    return history.now, len(history.item_index)
