"""Out of memory ends a run with advice; no step is ever skipped."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from r2ec.errors import R2ecError

ADVICE = (
    "lower recpo.micro_batch_rows, contrastive.micro_batch_users, recpo.sampling.batch_rows or"
    " evaluation.batch_rows, or set engine.gradient_checkpointing = true, and go on with --resume."
    " Where that is not enough, start anew with --fresh and lower prompt.max_prompt_tokens or"
    " recpo.sampling.max_new_tokens, raise engine.zero_stage, or train adapters (model.lora.rank)"
)


@contextmanager
def memory_advice() -> Iterator[None]:
    """Turn a failed allocation within the block into `R2ecError` that names what to lower."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise R2ecError(_message(error)) from error
    except RuntimeError as error:
        # PyTorch has no class of its own for a failed allocation on the CPU.
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise R2ecError(_message(error)) from error


def _message(error: BaseException) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"out of memory ({reason}): {ADVICE}"
