"""A loss or gradient that is not finite ends all ranks alike, before it can move a weight."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from r2ec.errors import R2ecError
from r2ec.tables import Example

if TYPE_CHECKING:
    from r2ec.recpo.engine import World

_REMEDY = "Lower the learning rate or engine.gradient_clipping, and go on with --resume"


def sum_finite(world: "World", own: Tensor, what: str, examples: Sequence[Example]) -> Tensor:
    """The sum over the ranks of this rank's figures.

    Raises `R2ecError` on every rank if it is not finite; the message names the ranks it comes from
    and the sequences (and users) of their batches. `examples` are this rank's.
    """
    is_finite = bool(torch.isfinite(own).all())
    total = world.sum_(own.clone())
    if torch.isfinite(total).all():
        return total
    batch = [f"{e.sequence_id} ({e.history.user_id})" for e in examples]
    told = world.gather(None if is_finite else batch)
    batches = "; ".join(
        f"rank {rank}: {', '.join(batch) or 'no sequences'}"
        for rank, batch in enumerate(told)
        if batch is not None
    )
    raise R2ecError(
        f"{what} is {total.flatten().tolist()}, not finite; all ranks stopped before the optimizer"
        f" step. Sequences (users) of the batch, {batches or 'a sum over ranks'}. {_REMEDY}"
    )


def check_norm(norm: float | None) -> None:
    """Raise `R2ecError` where the gradient was not finite, so that no step came of it.

    The norm is that over all ranks; DeepSpeed tells infinity, not a number, or -1.
    """
    if norm is not None and not 0 <= norm < float("inf"):
        raise R2ecError(
            f"the norm of the gradient is {norm}; all ranks stopped, the optimizer took no step."
            f" {_REMEDY}"
        )


def check_states(world: "World", states_NH: Tensor, rows_IH: Tensor) -> None:
    """Raise `R2ecError` on every rank where user states or item rows of any are not finite.

    A step of finite length may still end where the weights make no numbers any more.
    """
    is_finite = bool(torch.isfinite(states_NH).all() and torch.isfinite(rows_IH).all())
    if not all(world.gather(is_finite)):
        raise R2ecError(
            "user states or item rows are not finite: the step before has spoilt the weights; all"
            f" ranks stopped. {_REMEDY}, or start anew with --fresh"
        )
