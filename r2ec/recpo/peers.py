"""A process whose peers are gone ends by itself, says so, and may be started again."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from r2ec.errors import LostPeerError, R2ecError

# PyTorch has no class for these: gloo raises a bare RuntimeError, NCCL one for whatever happens.
_SIGNS = re.compile(
    r"connection (closed|reset|refused)|timed out|(read|write) error|broken pipe|pair closure"
    r"|socket (closed|is not connected)|no route to host|remote process exited|ncclRemoteError",
    re.IGNORECASE,
)
_NOISE = re.compile(r"^\[\S*\] |\. This is typically caused.*")


@contextmanager
def lost_peers(timeout_seconds: float) -> Iterator[None]:
    """Turn the failure of a message to or from another process into `LostPeerError`.

    A rendezvous that cannot be (an address in use) is an `R2ecError`; other errors pass.
    """
    try:
        yield
    except RuntimeError as error:
        reason = _NOISE.sub("", (str(error).strip().splitlines() or [type(error).__name__])[0])
        is_message = isinstance(error, dist.DistError) or "gloo" in str(error)
        if is_message and _SIGNS.search(str(error)):
            raise LostPeerError(
                "another process of this run is gone, did not come, or was silent for"
                f" {timeout_seconds:g} s (engine.timeout_seconds): {reason}. Checkpoints are whole;"
                " see its log for why, and start all again with --resume"
            ) from error
        if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
            raise R2ecError(
                f"the processes of this run cannot meet: {reason}; check MASTER_ADDR, MASTER_PORT,"
                " RANK and WORLD_SIZE"
            ) from error
        raise
