"""SASRec learns an order, looks back only, and gives the same model again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from r2ec.errors import UsageError
from r2ec.infer.baselines.sasrec import (
    Sasrec,
    SasrecSettings,
    kept_sasrec,
    sasrec_ranks,
    train_sasrec,
)
from r2ec.infer.baselines.sequences import UserSequence
from r2ec.storage import Warehouse
from r2ec.tables import Example, History

NUM_ITEMS = 12
SETTINGS = SasrecSettings(
    hidden_size=16, dropout=0.1, batch_users=8, lr=1e-2, max_epochs=20, eval_every=5, seed=3
)


def chain(start: int, length: int) -> list[int]:
    """Item after item round a ring: what comes next follows from the last one."""
    return [(start + step) % NUM_ITEMS for step in range(length)]


def example(items: list[int]) -> Example:
    history = History(
        user_id="u",
        item_index=tuple(items[:-1]),
        rating=(None,) * (len(items) - 1),
        time=tuple(range(len(items) - 1)),
        now=99,
    )
    return Example(sequence_id=0, history=history, target_index=items[-1])


SEQUENCES = [
    UserSequence(items=chain(start, 2 + start % 4), times=list(range(2 + start % 4)))
    for start in range(48)
]
VALID = [example(chain(start, 5)) for start in range(NUM_ITEMS)]


def test_it_learns_what_comes_next_and_the_same_again() -> None:
    ranks = [
        sasrec_ranks(train_sasrec(SEQUENCES, VALID, NUM_ITEMS, SETTINGS), VALID, SETTINGS)
        for _ in range(2)
    ]
    assert (ranks[0] == 1).mean() > 0.8
    assert ranks[0].tolist() == ranks[1].tolist()


def test_a_kept_model_is_read_again_and_never_taken_for_another(tmp_path: Path) -> None:
    file, place = str(tmp_path / "sasrec.pt"), Warehouse(str(tmp_path))

    def train() -> Sasrec:
        return train_sasrec(SEQUENCES, VALID, NUM_ITEMS, SETTINGS)

    def never() -> Sasrec:
        raise AssertionError("it is kept")

    ranks = [
        sasrec_ranks(kept_sasrec(file, place, make, NUM_ITEMS, SETTINGS), VALID, SETTINGS).tolist()
        for make in (train, never)
    ]
    assert ranks[0] == ranks[1]
    with pytest.raises(UsageError, match="name another file"):
        kept_sasrec(file, place, never, NUM_ITEMS, replace(SETTINGS, seed=4))


def test_a_drawn_softmax_learns_it_too() -> None:
    settings = replace(SETTINGS, whole_softmax_items=6)
    model = train_sasrec(SEQUENCES, VALID, NUM_ITEMS, settings)
    assert (sasrec_ranks(model, VALID, settings) == 1).mean() > 0.6


def test_a_place_sees_neither_what_follows_nor_padding() -> None:
    torch.manual_seed(0)
    model = Sasrec(NUM_ITEMS, SETTINGS).eval()
    whole = model(torch.tensor([[1, 2, 3, 4]]))
    changed = model(torch.tensor([[1, 2, 3, 9]]))
    assert torch.equal(whole[:, :3], changed[:, :3])
    assert not torch.allclose(whole[:, 3], changed[:, 3])
    # Places count from the end, so padding at the left changes nothing.
    padded = model(torch.tensor([[NUM_ITEMS, NUM_ITEMS, 1, 2, 3, 4]]))
    assert torch.allclose(whole[0], padded[0, 2:], atol=1e-5)


def test_seen_items_do_not_compete_but_a_target_always_does() -> None:
    torch.manual_seed(0)
    model = Sasrec(NUM_ITEMS, SETTINGS)
    seen = list(range(NUM_ITEMS - 1))
    assert sasrec_ranks(model, [example([*seen, NUM_ITEMS - 1])], SETTINGS).tolist() == [1]
    assert sasrec_ranks(model, [example([*range(NUM_ITEMS), 0])], SETTINGS).tolist() == [1]
