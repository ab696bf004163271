"""The rows of all items as one matrix: in memory, or in a mapped file where memory is too small.

Shapes: I items, H hidden size.
"""

import os
import tempfile

import torch
from torch import Tensor

from r2ec.logs import get_logger
from r2ec.memory import free_memory, no_room

_LOG = get_logger(__name__)
_SHARE = 0.5  # of the free memory that the rows may take; the rest is for the model and its cache


def empty_table(num_items: int, hidden_size: int, *, most_bytes: int | None = None) -> Tensor:
    """An (I, H) float32 matrix to be filled, of zeros.

    Beyond `most_bytes` (by default half of the free memory) it is a file without a name in the
    folder for temporary files (TMPDIR), of which the system keeps in memory what there is room for.
    The file goes with the last use of the matrix, however the process ends. Raises `R2ecError`
    where that folder has too little room.
    """
    size = num_items * hidden_size
    most_bytes = int(_SHARE * free_memory()) if most_bytes is None else most_bytes
    if 4 * size <= most_bytes:
        return torch.zeros(num_items, hidden_size)
    folder = tempfile.gettempdir()
    _LOG.info(
        f"{num_items:,} item rows of {hidden_size} are kept in a file in {folder}: {4 * size:,}"
        f" bytes are more than the {most_bytes:,} of memory that they may take"
    )
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="r2ec-items-") as file:
            # A hole in a mapped file would end the process, not raise, once the disk is full.
            os.posix_fallocate(file.fileno(), 0, max(1, 4 * size))
            table = torch.from_file(file.name, shared=True, size=size, dtype=torch.float32)
    except OSError as error:
        raise no_room(f"{4 * size:,} bytes for the rows of {num_items:,} items", error) from error
    return table.view(num_items, hidden_size)


def on_device(table_IH: Tensor, device: torch.device) -> Tensor:
    """The rows on the device where they fit beside all else there, otherwise as they are.

    Ranking takes rows from either, a block at a time.
    """
    if device.type != "cuda":
        return table_IH.to(device)
    free, _ = torch.cuda.mem_get_info(device)
    return table_IH.to(device) if table_IH.nbytes <= _SHARE * free else table_IH
