"""`torchrun`: PyTorch's launcher with an exit code that a cluster can act on."""

import contextlib
import socket
import threading
import time

import click

from r2ec.errors import StoppedError

_FAREWELL_SECONDS = 10.0
_first_node_left = threading.Event()


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: r2ec-cli torchrun --nproc-per-node=2 -m r2ec train --config configs/demo.toml",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="TORCHRUN-ARGUMENTS...")
def torchrun(arguments: tuple[str, ...]) -> int:
    """torchrun, with all of its options; only the exit code differs.

    torchrun itself ends with 1, whatever happened. This ends with the code of the rank that failed
    first (2: wrong use, 3: input not ready, 75: told to stop ...; 128 and the signal's number where
    a signal ended it), and with 75 when it was told to stop itself. So a Job can tell a run
    that is to be taken up again from one that never can succeed.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = run.parse_args(list(arguments))
    if options.node_rank > 0 and not options.standalone and not options.rdzv_endpoint:
        watch = (options.master_addr, options.master_port)
        threading.Thread(target=_leave_with_first_node, args=watch, daemon=True).start()
    try:
        run.run(options)
    except SignalException as stop:
        raise StoppedError(f"stopped by {stop.sigval.name}; start it again to go on") from stop
    except ChildFailedError as failed:
        if _first_node_left.is_set():
            raise StoppedError("node 0 is gone; start this again to go on with it") from failed
        rank, failure = failed.get_first_failure()
        click.echo(f"error: rank {rank} failed first: {failure.message}", err=True)
        code: int = failure.exitcode
        return code if code > 0 else 128 - code
    return 0


def _leave_with_first_node(address: str, port: int) -> None:
    """Stop this launcher when that of node 0, once seen, is gone for a while.

    A pod that takes a lost one's place may join the store of a run that is about to end; its
    ranks would then wait for peers that have left.
    """
    import psutil

    while True:
        try:
            link = socket.create_connection((address, port), timeout=5)
            break
        except OSError:  # not there yet; the rendezvous has its own time limit
            time.sleep(1)
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    try:
        while link.recv(1024):
            pass
    except OSError:
        pass
    time.sleep(_FAREWELL_SECONDS)  # at the end of a run both leave at about the same time
    _first_node_left.set()
    # Ranks that wait for lost peers in compiled code heed no order to stop, and could save nothing.
    for rank in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            rank.kill()
