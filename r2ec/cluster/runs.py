"""A run on a cluster: submit it, wait for its end, delete it."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from r2ec.cluster.jobs import Cluster
from r2ec.cluster.manifests import RUN_LABEL, Manifest
from r2ec.cluster.refusals import RefusedError, UnreachableError
from r2ec.cluster.status import RunStatus, status_of
from r2ec.errors import NotReadyError, R2ecError

DELETED_KINDS = ("CronJob", "Job", "Service", "ConfigMap", "PodDisruptionBudget")
_UNREACHABLE_SECONDS = 300.0
_GONE_SECONDS = 120.0  # beyond the time that pods have to end
_EXIT_CODES = (1, 2, 3, 4)

Answer = TypeVar("Answer")


def selector(run: str | None = None, kind: str | None = None) -> str:
    """Labels of the objects of a run and a kind of job; of all runs without them."""
    labels = {
        "app.kubernetes.io/name": "r2ec",
        RUN_LABEL: run,
        "app.kubernetes.io/component": kind,
    }
    return ",".join(f"{name}={value}" for name, value in labels.items() if value is not None)


def submit(
    cluster: Cluster,
    manifests: list[Manifest],
    *,
    dry_run: bool = False,
    force: bool = False,
    replace: bool = False,
) -> Iterator[str]:
    """Apply the objects in order; yields a line of what became of each.

    All are admitted before the first is kept or deleted, so a refusal changes nothing. `replace`
    deletes the Jobs that are there, with their pods. Raises `NotReadyError` for one that is just
    being deleted.
    """
    makes_namespace = any(item["kind"] == "Namespace" for item in manifests)
    if replace:
        manifests = [_under_another_name(item) for item in manifests] if dry_run else manifests
    else:
        manifests = [_as_kept(cluster, manifest) for manifest in manifests]
    if dry_run:
        yield from _check(cluster, manifests, force=force)
        return
    if replace:
        list(_check(cluster, [_under_another_name(item) for item in manifests], force=force))
        for manifest in manifests:
            if manifest["kind"] == "Job" and cluster.get("Job", manifest["metadata"]["name"]):
                yield f"{_replace(cluster, manifest)} deleted"
    if not makes_namespace:
        list(_check(cluster, manifests, force=force))
    for manifest in manifests:
        name = f"{manifest['kind'].lower()}/{manifest['metadata']['name']}"
        is_new = cluster.apply(manifest, force=force)
        yield f"{name} {'created' if is_new else _unchanged(cluster, manifest)}"


def _as_kept(cluster: Cluster, manifest: Manifest) -> Manifest:
    """The manifest of a Job with what others decide once it is there: Kueue lets it go."""
    name = manifest["metadata"]["name"]
    found = cluster.get("Job", name) if manifest["kind"] == "Job" else None
    if found is None:
        return manifest
    if "deletionTimestamp" in found["metadata"]:
        raise NotReadyError(f"job/{name} is still being deleted: submit it again in a moment")
    if "suspend" not in manifest["spec"]:
        return manifest
    suspend = found["spec"].get("suspend", False)
    return {**manifest, "spec": {**manifest["spec"], "suspend": suspend}}


def _under_another_name(manifest: Manifest) -> Manifest:
    """A Job as a new one: the server would measure it by the one that it replaces."""
    if manifest["kind"] != "Job":
        return manifest
    metadata = manifest["metadata"]
    return {**manifest, "metadata": {**metadata, "name": f"{metadata['name']}-x"}}


def _check(cluster: Cluster, manifests: list[Manifest], *, force: bool) -> Iterator[str]:
    """The server's own dry run of each; what a new namespace is to hold can't be checked yet."""
    awaits_namespace = False
    for manifest in manifests:
        name = f"{manifest['kind'].lower()}/{manifest['metadata']['name']}"
        try:
            is_new = cluster.apply(manifest, dry_run=True, force=force)
        except RefusedError as error:
            if not (awaits_namespace and error.status == 404):
                raise
            yield f"{name} not checked: its namespace is not there yet"
            continue
        awaits_namespace = awaits_namespace or (manifest["kind"] == "Namespace" and is_new)
        yield f"{name} would be {'created' if is_new else 'applied'}"


def _unchanged(cluster: Cluster, manifest: Manifest) -> str:
    """What to say of an object that was there before; a Job that has ended does not run again."""
    found = cluster.get("Job", manifest["metadata"]["name"]) if manifest["kind"] == "Job" else None
    state = status_of(found, [], []).state if found else ""
    if state in ("Complete", "Failed"):
        return f"was there and is {state}: --replace runs it again"
    return "applied (was there)"


def _replace(cluster: Cluster, manifest: Manifest) -> str:
    name, pod = manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]
    cluster.delete("Job", name, propagation="Foreground")
    seconds = pod.get("terminationGracePeriodSeconds", 30) + _GONE_SECONDS
    end = time.monotonic() + seconds
    while patient(lambda: cluster.get("Job", name)):
        if time.monotonic() > end:
            raise R2ecError(f"job/{name} is still being deleted after {seconds:.0f} s")
        time.sleep(0.5)
    return f"job/{name}"


def statuses(cluster: Cluster, run: str | None = None, kind: str | None = None) -> list[RunStatus]:
    """The Jobs and CronJobs of all runs, or of one, the oldest first."""
    labels = selector(run, kind)
    pods, rows = cluster.find("Pod", selector=labels), []
    for job in [*cluster.find("CronJob", selector=labels), *cluster.find("Job", selector=labels)]:
        own = [pod for pod in pods if _is_of(pod, job)]
        events = []
        if _lacks_pods(job, own):
            fields = f"involvedObject.name={job['metadata']['name']},type=Warning"
            events = cluster.find("Event", fields=fields)
        rows.append(status_of(job, own, events))
    return sorted(rows, key=lambda row: (-row.age_seconds, row.name))


def wait(
    cluster: Cluster,
    run: str,
    kind: str | None = None,
    *,
    timeout_seconds: float | None = None,
    poll_seconds: float = 5.0,
    report: Callable[[RunStatus], None] = lambda _status: None,
) -> int:
    """Wait until the Jobs of a run have ended; returns the exit code that tells of them.

    0 when all are complete; else the code of the pods that failed where they agree on one that
    r2ec gives (1 to 4), else 1. Raises `NotReadyError` without a Job, or after the time.
    """
    end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    told: dict[str, tuple[str, int, int]] = {}
    while True:
        rows = patient(lambda: statuses(cluster, run, kind))
        rows = [row for row in rows if row.state != "Scheduled"]
        if not rows and told:
            raise NotReadyError(f"the Jobs of run {run} are gone: they were deleted meanwhile")
        if not rows:
            raise NotReadyError(f"run {run} has no Job to wait for: r2ec-cli k8s status")
        for row in rows:
            seen = (row.state, row.succeeded, row.restarts)
            if told.get(row.name) != seen:
                report(row)
            told[row.name] = seen
        if all(row.state in ("Complete", "Failed") for row in rows):
            return exit_code(rows)
        if end is not None and time.monotonic() > end:
            states = ", ".join(f"{row.name} {row.state}" for row in rows)
            raise NotReadyError(f"not ended after {timeout_seconds:g} s: {states}")
        time.sleep(poll_seconds)


def exit_code(rows: Iterable[RunStatus]) -> int:
    """0 for complete Jobs; of failed ones the code that their pods agree on, or 1."""
    failed = [row for row in rows if row.state == "Failed"]
    if not failed:
        return 0
    codes = {code for row in failed for code in row.exit_codes}
    return codes.pop() if len(codes) == 1 and codes <= set(_EXIT_CODES) else 1


def delete(cluster: Cluster, run: str, kind: str | None = None) -> Iterator[str]:
    """Delete the Jobs of a run with their pods, and what goes with them; yields names.

    What the pods wrote stays. Raises `NotReadyError` when nothing of the run is there.
    """
    labels, count = selector(run, kind), 0
    # Drivers of Spark were made by pods of a Job; they go with it, but not at once.
    wanted = [(what, labels) for what in DELETED_KINDS] + [("Pod", f"{labels},spark-role=driver")]
    for what, its_labels in wanted:
        for item in cluster.find(what, selector=its_labels):
            name = item["metadata"]["name"]
            try:
                cluster.delete(what, name)
            except RefusedError as error:
                if error.status != 404:  # gone by itself: a CronJob takes its Jobs along
                    raise
            count += 1
            yield f"{what.lower()}/{name}"
    if not count:
        raise NotReadyError(f"nothing of run {run} is there: r2ec-cli k8s status")


def patient(ask: Callable[[], Answer]) -> Answer:
    """Ask until there is an answer, for five minutes: API servers are restarted too."""
    end, pause = time.monotonic() + _UNREACHABLE_SECONDS, 1.0
    while True:
        try:
            return ask()
        except UnreachableError:
            if time.monotonic() > end:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 30.0)


def _is_of(pod: Manifest, job: Manifest) -> bool:
    """Whether a Job made a pod; those of an earlier Job of its name may still be ending."""
    for owner in pod["metadata"].get("ownerReferences", []):
        if owner["kind"] == "Job":
            return bool(owner["uid"] == job["metadata"]["uid"])
    name = pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name")
    return bool(name == job["metadata"]["name"])


def _lacks_pods(job: Manifest, own: list[Manifest]) -> bool:
    """Whether a Job that goes on has fewer pods than it wants: an event says why."""
    if job["kind"] != "Job" or job.get("status", {}).get("conditions"):
        return False
    wanted = min(job["spec"].get("parallelism", 1), job["spec"].get("completions") or 1)
    return bool(len(own) < wanted)
