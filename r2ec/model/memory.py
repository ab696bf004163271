"""Out of memory ends a run with advice; no step and no user is ever skipped for it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from r2ec.errors import R2ecError

TRAINING_ADVICE = (
    "lower recpo.micro_batch_rows, contrastive.micro_batch_users, recpo.sampling.batch_rows or"
    " evaluation.batch_rows, or set engine.gradient_checkpointing = true, and go on with --resume."
    " Where that is not enough, start anew with --fresh and lower prompt.max_prompt_tokens or"
    " recpo.sampling.max_new_tokens, raise engine.zero_stage, or train adapters (model.lora.rank)"
)
SCORING_ADVICE = (
    "lower --cache-gib or --batch-rows, the same for all shards (they make another run), or take a"
    " device with more memory"
)
EMBEDDING_ADVICE = "take a device with more memory, or --device cpu"


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turn a failed allocation within the block into `R2ecError` that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise R2ecError(f"out of memory ({reason}): {advice}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or beside it."""
    # PyTorch has no class of its own for a failed allocation on the CPU.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
