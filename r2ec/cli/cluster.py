"""`k8s`: runs as Jobs on a Kubernetes cluster."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from r2ec.cli.options import check_day

Command = TypeVar("Command", bound=Callable[..., Any])
KINDS = ("setup", "train", "embed", "score", "publish")


@click.group(epilog="Example: r2ec-cli k8s submit score --run may --date 2024-05-31 --size 8")
def k8s() -> None:
    """Train, score and publish as Jobs on a cluster; the manifests are those of k8s/base.

    `setup` is what all runs of a namespace share; the others are one Job each.
    """


def _namespace_option(command: Command) -> Command:
    return click.option(
        "--namespace",
        default="r2ec",
        show_default=True,
        envvar="R2EC_NAMESPACE",
        metavar="NAME",
        help="Of the cluster.",
    )(command)


def _context_option(command: Command) -> Command:
    return click.option("--context", metavar="NAME", help="Context of the kubeconfig.")(command)


def _run_options(command: Command) -> Command:
    options = [
        click.argument("kind", type=click.Choice(KINDS)),
        click.option("--run", metavar="NAME", help="Name of the run: a-z, 0-9 and -."),
        click.option("--image", metavar="IMAGE", help="Container image.  [default: r2ec:0.1.0]"),
        click.option("--date", callback=check_day, metavar="DAY", help="For score and publish."),
        click.option("--size", type=click.IntRange(min=1), help="Shards (score), nodes (train)."),
        click.option("--processes", type=click.IntRange(min=1), help="Of one node (train)."),
        click.option(
            "--config",
            "config_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            metavar="TOML",
            help="Settings of the run (train).",
        ),
        click.option("--warehouse", metavar="PATH", help="As the pods see it.  [/data/warehouse]"),
        click.option("--base-model", metavar="DIR", help="As the pods see it.  [/data/base]"),
        click.option("--model", metavar="DIR", help="As the pods see it.  [/data/model]"),
        click.option("--arg", "arguments", multiple=True, help="One more word of the command."),
        _namespace_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@k8s.command()
@_run_options
def render(**options: Any) -> None:
    """Print the manifests of a run as YAML; no cluster is asked."""
    from r2ec.cluster.manifests import to_yaml

    click.echo(to_yaml(_manifests(**options)), nl=False)


@k8s.command()
@_run_options
@_context_option
@click.option("--dry-run", is_flag=True, help="The server checks everything and keeps nothing.")
def submit(context: str | None, dry_run: bool, **options: Any) -> None:
    """Start a run: apply its manifests to the cluster."""
    from r2ec.cluster.jobs import Cluster

    manifests = _manifests(**options)
    cluster = Cluster(options["namespace"], context=context)
    done = "would be applied" if dry_run else "applied"
    for name in cluster.apply(manifests, dry_run=dry_run):
        click.echo(f"{name} {done}")


@k8s.command()
@click.option("--run", metavar="NAME", help="Only this run.")
@_namespace_option
@_context_option
def status(run: str | None, namespace: str, context: str | None) -> None:
    """Show the runs: how many of their pods are done, running and failed."""
    from rich.console import Console
    from rich.table import Table

    from r2ec.cluster.jobs import Cluster
    from r2ec.logs import format_seconds

    rows = Cluster(namespace, context=context).statuses(run)
    if not rows:
        click.echo(f"no runs in namespace {namespace}" + (f" with name {run}" if run else ""))
        return
    table = Table("run", "job", "state", "done", "running", "failed", "age", "message", box=None)
    for row in rows:
        failed = row.indexes_failed and f" (index {row.indexes_failed})"
        table.add_row(
            row.run or "-",
            row.kind,
            row.state,
            f"{row.succeeded}/{row.wanted}",
            str(row.active),
            f"{row.failed}{failed}",
            format_seconds(row.age_seconds),
            row.message,
        )
    # A log or a pipe has no width of its own: one run, one line.
    Console(width=None if sys.stdout.isatty() else 250).print(table)


@k8s.command()
@click.argument("kind", type=click.Choice(KINDS[1:]))
@click.option("--run", required=True, metavar="NAME", help="Name of the run.")
@click.option("--index", type=click.IntRange(min=0), help="Only the pod with this index.")
@click.option("--tail", type=click.IntRange(min=1), metavar="LINES", help="Only the last lines.")
@_namespace_option
@_context_option
def logs(
    kind: str,
    run: str,
    index: int | None,
    tail: int | None,
    namespace: str,
    context: str | None,
) -> None:
    """Print what the pods of a run have logged so far, each line with its pod."""
    from r2ec.cluster.jobs import Cluster

    for pod, line in Cluster(namespace, context=context).logs(run, kind, index=index, tail=tail):
        click.echo(f"{pod} | {line}")


@k8s.command()
@click.option("--run", required=True, metavar="NAME", help="Name of the run.")
@click.option("--kind", type=click.Choice(KINDS[1:]), help="Only this job of the run.")
@_namespace_option
@_context_option
def delete(run: str, kind: str | None, namespace: str, context: str | None) -> None:
    """Delete a run's Jobs and pods; tables and models stay."""
    from r2ec.cluster.jobs import Cluster

    for name in Cluster(namespace, context=context).delete(run, kind):
        click.echo(f"{name} deleted")


def _manifests(
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
    arguments: tuple[str, ...],
    namespace: str,
) -> list[dict[str, Any]]:
    from r2ec.cluster.manifests import RunSettings, run_manifests, setup_manifests

    if kind == "setup":
        return setup_manifests(namespace)
    if run is None:
        raise click.UsageError(f"{kind} needs --run NAME")
    if date is None and kind in ("score", "publish"):
        raise click.UsageError(f"{kind} needs --date DAY")
    environment = {
        "R2EC_DATE": date,
        "R2EC_WAREHOUSE": warehouse,
        "R2EC_BASE": base_model,
        "R2EC_MODEL": model,
    }
    settings = RunSettings(
        image=image,
        size=size,
        processes=processes,
        config_file=config_file,
        environment={name: value for name, value in environment.items() if value is not None},
        arguments=arguments,
    )
    return run_manifests(kind, run, settings, namespace=namespace)
