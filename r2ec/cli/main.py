"""`r2ec-cli`: finds a command, runs it, and turns errors into one line and an exit code.

Commands live one file per group and are imported only when they are called, so that `--help`
answers at once. Exit codes: 0 done, 1 failed, 2 wrong use, 3 input not ready, 4 a quality gate
failed, 75 told to stop.
"""

import errno
import importlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NamedTuple, get_args

import click

from r2ec import logs
from r2ec.cli.examples import copyable
from r2ec.errors import R2ecError, StoppedError

PREFIX = "R2EC"
TERMINATION_LOG = "R2EC_TERMINATION_LOG"
LOG_LEVELS = ("debug", "info", "warning", "error")


class LazyCommand(NamedTuple):
    """Where a command is (`module:function`) and the line `r2ec-cli --help` shows for it."""

    target: str
    summary: str


COMMANDS: dict[str, LazyCommand] = {
    "sample-data": LazyCommand(
        "r2ec.cli.data:sample_data", "Write a synthetic shop: ratings and metadata, any size."
    ),
    "download": LazyCommand(
        "r2ec.cli.data:download", "Fetch a category of Amazon-Reviews-2023: ratings, metadata."
    ),
    "init-model": LazyCommand(
        "r2ec.cli.model:init_model", "Make a small base model, or check a Hugging Face directory."
    ),
    "train": LazyCommand(
        "r2ec.cli.model:train", "Train a model: contrastive stage, then RecPO, from one TOML."
    ),
    "torchrun": LazyCommand(
        "r2ec.cli.launching:torchrun", "torchrun whose exit code is that of the rank that failed."
    ),
    "embed": LazyCommand("r2ec.cli.model:embed", "Encode the catalog into item embeddings."),
    "score": LazyCommand(
        "r2ec.cli.scoring:score", "Recommend for every user of a date, with the reasoning."
    ),
    "publish": LazyCommand(
        "r2ec.cli.publishing:publish", "Check a scored date and make it visible in one act."
    ),
    "evaluate": LazyCommand(
        "r2ec.cli.evaluation:evaluate", "Hit rate and NDCG with intervals, beside the baselines."
    ),
    "study": LazyCommand(
        "r2ec.cli.studying:study", "Compare trainings and baselines: table, intervals, picture."
    ),
    "show": LazyCommand(
        "r2ec.cli.people:show", "One user's history, reasoning and recommendations."
    ),
    "sql": LazyCommand("r2ec.cli.people:sql", "Run a query over the warehouse's views."),
    "report": LazyCommand(
        "r2ec.cli.reporting:report", "A published date as one HTML page: curves, metrics, users."
    ),
    "audit": LazyCommand("r2ec.cli.audit:audit", "Run the audits: queries that must find nothing."),
    "forget": LazyCommand(
        "r2ec.cli.forgetting:forget", "Delete all rows of some users from the warehouse."
    ),
    "demo": LazyCommand("r2ec.cli.demo:demo", "The whole pipeline on a sample shop or real logs."),
    "k8s": LazyCommand("r2ec.cli.cluster:k8s", "Train, score and publish as Jobs on Kubernetes."),
    "doctor": LazyCommand(
        "r2ec.cli.doctor:doctor", "What this machine has, what is missing, how to get it."
    ),
}

EXTRA_OF_PACKAGE = {
    "deepspeed": "train",
    "kubernetes": "k8s",
    "matplotlib": "study",
    "peft": "train",
    "pyspark": "spark",
    "safetensors": "train",
    "tensorboard": "train",
    "tokenizers": "train",
    "torch": "train",
    "transformers": "train",
    "yaml": "k8s",
}


class LazyGroup(click.Group):
    """A click group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return load_command(name) if name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


def load_command(name: str) -> click.Command:
    """Import the command `name` and give it the options and variables that all commands share.

    Each option may come from `R2EC_<COMMAND>_<OPTION>`, else from `R2EC_<OPTION>`.
    """
    module, function = COMMANDS[name].target.split(":")
    command: click.Command = getattr(importlib.import_module(module), function)
    command.name, command.short_help = name, COMMANDS[name].summary
    _share_options(command, name)
    return command


def _share_options(command: click.Command, path: str) -> None:
    """Give a command, and those below it, the log options and their variables; once is enough."""
    command.epilog = copyable(command.epilog)
    if not any(option.name == "log_format" for option in command.params):
        command.params.extend(_log_options())
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None:
            # The option as people type it: Python calls --format and --set otherwise.
            typed = max(option.opts, key=len).lstrip("-")
            option.envvar = [
                f"{PREFIX}_{part}".upper().replace("-", "_").replace(" ", "_")
                for part in (f"{path} {typed}", typed)
            ]
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            _share_options(below, f"{path} {name}")


def _configure_logs(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        ctx.obj = {**(ctx.obj or {}), option.name: value}
        logs.configure(ctx.obj.get("log_format", "text"), ctx.obj.get("log_level", "info"))
    return value


def _log_options() -> list[click.Option]:
    return [
        click.Option(
            ["--log-format"],
            type=click.Choice(get_args(logs.LogFormat)),
            envvar=f"{PREFIX}_LOG_FORMAT",
            expose_value=False,
            callback=_configure_logs,
            help="Log lines for people or for machines.  [default: text]",
        ),
        click.Option(
            ["--log-level"],
            type=click.Choice(LOG_LEVELS),
            envvar=f"{PREFIX}_LOG_LEVEL",
            expose_value=False,
            callback=_configure_logs,
            help="The least weighty lines to be shown.  [default: info]",
        ),
    ]


def _given_by_launchers() -> click.Option:
    """The deepspeed launcher puts `--local_rank=N` before all that was typed, and LOCAL_RANK, which
    is what is read, into the environment."""
    return click.Option(["--local_rank"], type=int, hidden=True, expose_value=False)


@click.group(
    cls=LazyGroup,
    params=[*_log_options(), _given_by_launchers()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=copyable("Example: r2ec-cli sample-data --events 20000 --seed 1 shop"),
)
@click.version_option(package_name="r2ec")
def cli() -> None:
    """Raw interaction logs in; SQL tables of recommendations and their reasoning out.

    Every option may come from the environment: R2EC_TOP_K, or R2EC_SCORE_TOP_K for one command.
    """


def describe_os_error(error: OSError) -> str:
    """What went wrong with which path, and what to do about it."""
    remedies = {
        errno.ENOSPC: "the disk is full: free some space or choose another place, then run again",
        errno.EDQUOT: "the quota is used up: free some space or choose another place",
        errno.EACCES: "permission denied: change the path's owner or mode, or choose another place",
        errno.EPERM: "permission denied: change the path's owner or mode, or choose another place",
        errno.EROFS: "the file system is read-only: choose another place",
        errno.ENOENT: "no such file or folder: check the path",
    }
    reason = remedies.get(error.errno or 0, error.strerror or str(error))
    return f"{error.filename}: {reason}" if error.filename else reason


def exit_with(message: str, exit_code: int) -> int:
    """Print `error: <message>` on stderr and return the exit code.

    `R2EC_TERMINATION_LOG` names a file that gets the message too: a pod's termination message.
    """
    click.echo(f"error: {message}", err=True)
    file = os.environ.get(TERMINATION_LOG)
    if file:
        try:
            Path(file).write_text(f"{message}\n", encoding="utf-8")
        except OSError as error:
            click.echo(f"warning: {TERMINATION_LOG}: {describe_os_error(error)}", err=True)
    return exit_code


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; a person's mistake leaves no traceback."""
    logs.configure()
    try:
        result = cli.main(arguments, prog_name="r2ec-cli", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return exit_with("stopped by the keyboard", 130)
    except R2ecError as error:
        return exit_with(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        extra = EXTRA_OF_PACKAGE.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        remedy = f"install it with: pip install 'r2ec[{extra}]'"
        return exit_with(f"the package {error.name} is not installed; {remedy}", 3)
    except OSError as error:
        return exit_with(describe_os_error(error), 1)


def _stop(number: int, _frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    message = f"stopped by {name}; run it again: what is done is kept"
    raise SystemExit(exit_with(message, StoppedError.exit_code))


def main() -> None:
    """Entry point of the script `r2ec-cli`."""
    # The first process of a container would not even be ended by SIGTERM without this.
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(run())
