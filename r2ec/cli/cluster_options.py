"""Options of the `k8s` commands, and the manifests that they mean."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from r2ec.cli.options import check_day
from r2ec.errors import UsageError
from r2ec.logs import get_logger

Command = TypeVar("Command", bound=Callable[..., Any])
JOB_KINDS = ("spark", "init", "train", "embed", "score", "publish")
KINDS = ("setup", *JOB_KINDS, "nightly")


def _check_namespace(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if len(value) > 63 or not re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", value):
        raise click.BadParameter(f"{value!r}: up to 63 of a-z, 0-9 and -, none of - at an end")
    return value


def _check_seen(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """A path that pods can see: one of this machine's own environment may be another."""
    if value is None or value.startswith("/") or "://" in value:
        return value
    if context.get_parameter_source(str(option.name)) is ParameterSource.ENVIRONMENT:
        get_logger(__name__).warning(
            "%s=%s is a path of this machine: pods take the default; give %s as they see it",
            f"R2EC_{str(option.name).upper()}",
            value,
            option.opts[0],
        )
        return None
    raise click.BadParameter(f"{value!r}: pods see no relative path; give /data/… or s3://…")


def namespace_option(command: Command) -> Command:
    """`--namespace`: of the cluster."""
    return click.option(
        "--namespace",
        default="r2ec",
        show_default=True,
        envvar="R2EC_NAMESPACE",
        callback=_check_namespace,
        metavar="NAME",
        help="Of the cluster.",
    )(command)


def context_option(command: Command) -> Command:
    """`--context`: of the kubeconfig."""
    return click.option("--context", metavar="NAME", help="Context of the kubeconfig.")(command)


def run_option(command: Command) -> Command:
    """`--run`: whose Jobs are meant."""
    return click.option("--run", required=True, metavar="NAME", help="Name of the run.")(command)


def kind_argument(command: Command) -> Command:
    """Which job of a run is meant."""
    return click.argument("kind", type=click.Choice(JOB_KINDS), metavar="KIND")(command)


def run_options(command: Command) -> Command:
    """What `render` and `submit` share: everything that makes one run."""
    options = [
        click.argument("kind", type=click.Choice(KINDS), metavar="KIND"),
        click.option("--run", metavar="NAME", help="Name of the run: a-z, 0-9 and -."),
        click.option("--image", metavar="IMAGE", help="Container image.  [default: k8s/base's]"),
        click.option(
            "--date", callback=check_day, metavar="DAY", help="For spark, score and publish."
        ),
        click.option("--size", type=click.IntRange(min=1), help="Shards (score), nodes (train)."),
        click.option("--processes", type=click.IntRange(min=1), help="Of one node (train)."),
        click.option(
            "--config",
            "config_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            metavar="TOML",
            help="Settings of the run (train).",
        ),
        click.option(
            "--warehouse",
            callback=_check_seen,
            metavar="PATH",
            help="As the pods see it.  [default: /data/warehouse]",
        ),
        click.option(
            "--base-model",
            callback=_check_seen,
            metavar="DIR",
            help="As the pods see it.  [default: /data/base]",
        ),
        click.option(
            "--model",
            callback=_check_seen,
            metavar="DIR",
            help="As the pods see it.  [default: /data/model]",
        ),
        click.option(
            "--set",
            "pairs",
            multiple=True,
            metavar="KEY=VALUE",
            help="cpu, memory, gpu, queue, priority, deadline, retries, secret, env.NAME, or a "
            "setting of training such as recpo.steps=10; may be repeated.",
        ),
        click.option("--arg", "arguments", multiple=True, help="One more word of the command."),
        click.option(
            "--from",
            "source",
            metavar="FILE",
            help="Objects to take in place of k8s/base: what kubectl kustomize printed; - reads "
            "standard input.",
        ),
        namespace_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def manifests_of(
    *,
    kind: str,
    run: str | None,
    image: str | None,
    date: str | None,
    size: int | None,
    processes: int | None,
    config_file: Path | None,
    warehouse: str | None,
    base_model: str | None,
    model: str | None,
    pairs: tuple[str, ...],
    arguments: tuple[str, ...],
    source: str | None,
    namespace: str,
) -> list[dict[str, Any]]:
    """The manifests that the options mean. Raises click.UsageError where one is missing."""
    from r2ec.cluster.manifests import RunSettings, read_rendered, run_manifests, setup_manifests
    from r2ec.cluster.settings import parse_settings

    if kind == "setup":
        return setup_manifests(namespace)
    if run is None:
        raise click.UsageError(f"{kind} needs --run NAME")
    if date is None and kind in ("spark", "score", "publish"):
        raise click.UsageError(f"{kind} needs --date DAY")
    environment = {
        "R2EC_DATE": date,
        "R2EC_WAREHOUSE": warehouse,
        "R2EC_BASE": base_model,
        "R2EC_MODEL": model,
    }
    pod, training = parse_settings(pairs, image=image)
    if training and kind != "train":
        raise UsageError(f"{training[0]}: a setting of training; {kind} takes none")
    _check_training(config_file, training)
    settings = RunSettings(
        size=size,
        processes=processes,
        config_file=config_file,
        environment={name: value for name, value in environment.items() if value is not None},
        arguments=(*training, *arguments),
        pod=pod,
    )
    rendered = read_rendered(_read(source), source) if source is not None else None
    return run_manifests(kind, run, settings, namespace=namespace, rendered=rendered)


def _check_training(config_file: Path | None, training: tuple[str, ...]) -> None:
    """A wrong setting is told here rather than by a pod on the cluster."""
    if config_file is None:
        return
    from r2ec.config import load_train_config

    load_train_config(str(config_file), [word.removeprefix("--set=") for word in training])


def _read(source: str) -> str:
    return sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
