"""Products of float32 numbers as float32 has them, whatever precision the process has chosen."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_BACKENDS: tuple[Any, ...] = (
    torch.backends.cuda.matmul,
    getattr(torch.backends.mkldnn, "matmul", None),
)
# Since PyTorch 2.9 each backend has a setting of its own. Once one of them is set, the common one
# may neither be set nor read.
_HAVE_THEIR_OWN = all(hasattr(backend, "fp32_precision") for backend in _BACKENDS)


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """No TF32, no bfloat16, no autocast within the block."""
    with torch.autocast(device.type, enabled=False):
        before = _precisions()
        _set_precisions(["ieee"] * len(before) if _HAVE_THEIR_OWN else ["highest"])
        try:
            yield
        finally:
            _set_precisions(before)


def _precisions() -> list[str]:
    if not _HAVE_THEIR_OWN:
        return [torch.get_float32_matmul_precision()]
    return [backend.fp32_precision for backend in _BACKENDS]


def _set_precisions(values: list[str]) -> None:
    if not _HAVE_THEIR_OWN:
        torch.set_float32_matmul_precision(values[0])
        return
    for backend, value in zip(_BACKENDS, values, strict=True):
        backend.fp32_precision = value
