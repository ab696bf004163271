"""`torchrun`: PyTorch's launcher with an exit code that a cluster can act on."""

import click

from r2ec.errors import StoppedError


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

    try:
        run.run(run.parse_args(list(arguments)))
    except SignalException as stop:
        raise StoppedError(f"stopped by {stop.sigval.name}; start it again to go on") from stop
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        click.echo(f"error: rank {rank} failed first: {failure.message}", err=True)
        code: int = failure.exitcode
        return code if code > 0 else 128 - code
    return 0
