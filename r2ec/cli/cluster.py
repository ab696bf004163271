"""`k8s`: runs as Jobs on a Kubernetes cluster."""

from typing import Any

import click

from r2ec.cli.cluster_options import (
    JOB_KINDS,
    context_option,
    kind_argument,
    manifests_of,
    namespace_option,
    run_option,
    run_options,
)


@click.group(epilog="Example: r2ec-cli k8s submit score --run may --date 2024-05-31 --size 8")
def k8s() -> None:
    """Spark, training, scoring and publishing as Jobs on a cluster; the manifests are k8s/base.

    `setup` is what all runs of a namespace share; `nightly` is a chain of CronJobs; the others
    are one Job each.
    """


@k8s.command(epilog="Example: r2ec-cli k8s render score --run may --date 2024-05-31")
@run_options
def render(**options: Any) -> None:
    """Print the manifests of a run as YAML; no cluster is asked.

    KIND is setup, spark, init, train, embed, score, publish or nightly.
    """
    from r2ec.cluster.manifests import to_yaml

    click.echo(to_yaml(manifests_of(**options)), nl=False)


@k8s.command(epilog="Example: r2ec-cli k8s submit score --run may --date 2024-05-31 --size 8")
@run_options
@context_option
@click.option("--dry-run", is_flag=True, help="The server checks everything and keeps nothing.")
@click.option("--replace", is_flag=True, help="Delete the run's Jobs first, if they are there.")
@click.option("--force-conflicts", is_flag=True, help="Take fields over that others have set.")
def submit(
    context: str | None, dry_run: bool, replace: bool, force_conflicts: bool, **options: Any
) -> None:
    """Start a run: apply its manifests to the cluster.

    KIND is setup, spark, init, train, embed, score, publish or nightly.

    The same run may be submitted again: what is the same stays as it is. What cannot be changed on
    a Job is refused; --replace starts it anew.
    """
    from r2ec.cluster.jobs import Cluster
    from r2ec.cluster.runs import submit as submit_run

    manifests = manifests_of(**options)
    cluster = Cluster(options["namespace"], context=context)
    for line in submit_run(
        cluster, manifests, dry_run=dry_run, force=force_conflicts, replace=replace
    ):
        click.echo(line)


@k8s.command(epilog="Example: r2ec-cli k8s status --run may --watch")
@click.option("--run", metavar="NAME", help="Only this run.")
@click.option("--watch", is_flag=True, help="Show it again whenever it changes, until all ended.")
@click.option("--interval", default=5.0, show_default=True, help="Seconds between two looks.")
@namespace_option
@context_option
def status(
    run: str | None, watch: bool, interval: float, namespace: str, context: str | None
) -> None:
    """Show the runs: indexes done, running and failed, and why."""
    from r2ec.cli.status_page import print_statuses, watch_statuses
    from r2ec.cluster.jobs import Cluster
    from r2ec.cluster.runs import statuses

    cluster = Cluster(namespace, context=context)
    if watch:
        watch_statuses(cluster, run, interval)
        return
    rows = statuses(cluster, run)
    if not rows:
        click.echo(f"no runs in namespace {namespace}" + (f" with name {run}" if run else ""))
        return
    print_statuses(rows)


@k8s.command(epilog="Example: r2ec-cli k8s logs score --run may --follow")
@kind_argument
@run_option
@click.option("--index", type=click.IntRange(min=0), help="Only the pods with this index.")
@click.option("--tail", type=click.IntRange(min=1), metavar="LINES", help="Only the last lines.")
@click.option("--follow", "-f", is_flag=True, help="Go on as lines come, until the Job has ended.")
@namespace_option
@context_option
def logs(
    kind: str,
    run: str,
    index: int | None,
    tail: int | None,
    follow: bool,
    namespace: str,
    context: str | None,
) -> None:
    """Print what the pods of a run have logged.

    Each line begins with its pod. KIND is spark, init, train, embed, score or publish.
    """
    from r2ec.cluster.jobs import Cluster
    from r2ec.cluster.pod_logs import follow_logs, read_logs

    read = follow_logs if follow else read_logs
    for pod, line in read(Cluster(namespace, context=context), run, kind, index=index, tail=tail):
        click.echo(f"{pod} | {line}")


@k8s.command(epilog="Example: r2ec-cli k8s wait --run may --timeout 3600")
@run_option
@click.option("--kind", type=click.Choice(JOB_KINDS), help="Only this job of the run.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Exit 3 then.")
@click.option("--interval", default=5.0, show_default=True, help="Seconds between two looks.")
@namespace_option
@context_option
def wait(
    run: str,
    kind: str | None,
    timeout: float | None,
    interval: float,
    namespace: str,
    context: str | None,
) -> int:
    """Wait for the Jobs of a run.

    The exit code is theirs: 0, or the one that their pods failed with.
    """
    from r2ec.cli.status_page import status_line
    from r2ec.cluster.jobs import Cluster
    from r2ec.cluster.runs import wait as wait_for_run

    return wait_for_run(
        Cluster(namespace, context=context),
        run,
        kind,
        timeout_seconds=timeout,
        poll_seconds=interval,
        report=lambda row: click.echo(status_line(row), err=True),
    )


@k8s.command(epilog="Example: r2ec-cli k8s delete --run may --kind score")
@run_option
@click.option("--kind", type=click.Choice(JOB_KINDS), help="Only this job of the run.")
@namespace_option
@context_option
def delete(run: str, kind: str | None, namespace: str, context: str | None) -> None:
    """Delete a run's Jobs and pods; tables and models stay."""
    from r2ec.cluster.jobs import Cluster
    from r2ec.cluster.runs import delete as delete_run

    for name in delete_run(Cluster(namespace, context=context), run, kind):
        click.echo(f"{name} deleted")


@k8s.command(
    "spark-submit",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: r2ec-cli k8s spark-submit --driver may-driver jobs/build_catalog.py",
)
@click.option("--driver", required=True, metavar="POD", help="Name of the driver's pod.")
@click.option("--show", is_flag=True, help="Print the spark-submit command and do nothing.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="SPARK-SUBMIT-ARGUMENTS...")
def spark_submit(driver: str, show: bool, arguments: tuple[str, ...]) -> int:
    """In a pod: run a Spark job in cluster mode.

    It ends with the exit code of the driver.

    spark-submit alone ends with 0 when the driver failed. Started again, it goes on with the
    driver that is there.
    """
    import os

    from r2ec.cluster.jobs import Cluster
    from r2ec.cluster.spark_driver import (
        find_own_pod,
        own_namespace,
        run_driver,
        submit_command,
    )

    if show:
        namespace = os.environ.get("R2EC_NAMESPACE", "r2ec")
        click.echo(" ".join(submit_command(namespace, driver, arguments, own_pod=None)))
        return 0
    cluster = Cluster(own_namespace())
    return run_driver(cluster, driver, arguments, own_pod=find_own_pod(cluster))
