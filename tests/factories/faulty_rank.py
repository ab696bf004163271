"""`r2ec-cli`, in which rank 1 alone meets a loss that is not a number in the N-th micro-batch.

Run as `-m tests.factories.faulty_rank N ARGUMENTS...`. The program is the real one: the loss of
that micro-batch is spoilt as a broken weight or an overflow would spoil it.
"""

import os
import sys
from typing import Any

from torch import Tensor

from r2ec.cli.main import run
from r2ec.recpo import update

_whole = update._micro_loss


def main(number: int, arguments: list[str]) -> int:
    """Exit code of the program."""
    done = 0

    def spoilt(*given: Any, **named: Any) -> Tensor:
        nonlocal done
        done += 1
        loss = _whole(*given, **named)
        return loss * float("nan") if done == number else loss

    if os.environ["RANK"] == "1":
        update._micro_loss = spoilt
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
