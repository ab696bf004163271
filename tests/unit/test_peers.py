"""What counts as a lost peer, and what is said of it."""

import os
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
import torch.distributed as dist

from r2ec.errors import LostPeerError, R2ecError
from r2ec.recpo.peers import lost_peers
from tests.factories.commands import REPOSITORY

CLOSED = (
    "[/w/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:12186. This is"
    " typically caused by a remote worker crashing. Check the logs of the remote worker"
)
SILENT = (
    "[/w/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 8000ms for recv operation"
    " to complete"
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CLOSED, r"\): Connection closed by peer \[127\.0\.0\.1\]:12186\. Checkpoints"),
        (SILENT, r"\): Timed out waiting 8000ms for recv operation to complete\. Checkpoints"),
    ],
)
def test_a_lost_peer_is_told_and_the_run_may_be_started_again(text: str, reason: str) -> None:
    with pytest.raises(LostPeerError, match=reason) as told, lost_peers(8.0):
        raise RuntimeError(text)
    assert told.value.exit_code == 75
    assert "silent for 8 s (engine.timeout_seconds)" in str(told.value)


def test_a_peer_that_never_comes_is_told() -> None:
    with pytest.raises(LostPeerError, match=r"did not come.*1/2 clients"), lost_peers(0.2):
        dist.TCPStore("127.0.0.1", 0, 2, is_master=True, timeout=timedelta(seconds=0.2))


def test_an_address_in_use_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(R2ecError, match=r"cannot meet.*MASTER_PORT") as told, lost_peers(1.0):
            dist.TCPStore("127.0.0.1", port, 1, is_master=True)
    assert told.value.exit_code == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("[enforce fail at gloo/transport/tcp/pair.cc:1] op.preamble.length <= op.n"),
        ValueError("Connection closed by peer"),
    ],
)
def test_other_errors_are_not_taken_for_a_lost_peer(error: Exception) -> None:
    with pytest.raises(type(error)) as told, lost_peers(8.0):
        raise error
    assert told.value is error


ALONE = """if True:
    import os
    from r2ec.recpo.engine import Engine, World
    from tests.factories.models import small_model
    for _ in range(2):
        world = World(5.0)
        assert (world.rank, world.size, world.gather(7)) == (0, 1, [7])
        engine = Engine(world, small_model()[0], zero_stage=0, gradient_clipping=1, weight_decay=0)
        assert not {"MASTER_ADDR", "MASTER_PORT"} & os.environ.keys()
        engine.close()
        world.close()
"""


def test_a_process_alone_leaves_no_port_to_its_children_that_it_holds_itself() -> None:
    """Two runs in one process, as in a notebook."""
    ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    bare = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", ALONE]
    done = subprocess.run(command, env=bare, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
