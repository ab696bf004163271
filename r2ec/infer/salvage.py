"""One failing row must not end the work on the others: found by halving, told by its reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from r2ec.errors import R2ecError
from r2ec.model.memory import is_out_of_memory

Row = TypeVar("Row")
Result = TypeVar("Result")

# What is wrong with the machine and not with a row. PyTorch before 2.8 has no AcceleratorError.
_MACHINE_FAULTS = (
    OSError,
    getattr(torch, "AcceleratorError", torch.OutOfMemoryError),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why nothing came of a row, as it stands in the column `error`."""

    reason: str


def each_or_failure(
    rows: Sequence[Row], work: Callable[[Sequence[Row]], Sequence[Result]]
) -> list[Result | Failure]:
    """`work(rows)`, one result a row; where it raises, that of its halves, down to the one row.

    Memory that does not suffice, and faults of the disk and the device, are raised.
    """
    if not rows:
        return []
    try:
        return list(work(rows))
    except _MACHINE_FAULTS:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # Whatever a row does to the tokenizer, the model or the ranking: only that row has failed.
        if len(rows) == 1:
            return [Failure(reason_of(error))]
    half = len(rows) // 2
    return each_or_failure(rows[:half], work) + each_or_failure(rows[half:], work)


def reason_of(error: Exception) -> str:
    """The message alone of an error meant for people, else the kind of error before it."""
    return str(error) if isinstance(error, R2ecError) else f"{type(error).__name__}: {error}"
