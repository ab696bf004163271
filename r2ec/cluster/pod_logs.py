"""The logs of a run's pods: what is there, or all of them as they come, each line with its pod."""

import queue
import threading
import time
from collections.abc import Iterator

from r2ec.cluster.jobs import Cluster
from r2ec.cluster.manifests import Manifest
from r2ec.cluster.refusals import RefusedError, UnreachableError
from r2ec.cluster.runs import patient, selector, statuses
from r2ec.cluster.status import index_of, waiting_reason
from r2ec.errors import NotReadyError

_POLL_SECONDS = 2.0
# Asked for again after a break: lines from this long before the last one; those known are left out.
_OVERLAP_SECONDS = 10


def read_logs(
    cluster: Cluster, run: str, kind: str, *, index: int | None = None, tail: int | None = None
) -> Iterator[tuple[str, str]]:
    """Lines of the pods' logs so far, as (pod name, line), pod after pod, by index and age.

    Raises `NotReadyError` when the run has no such pod.
    """
    pods = _pods(cluster, run, kind, index)
    if not pods:
        which = "" if index is None else f" with index {index}"
        raise NotReadyError(f"run {run} has no {kind} pod{which}: r2ec-cli k8s status")
    options = {} if tail is None else {"tail_lines": tail}
    for pod in pods:
        name = pod["metadata"]["name"]
        if pod["status"].get("phase") == "Pending":
            yield name, f"(waiting: {waiting_reason(pod)})"
            continue
        for line in cluster.log_lines(name, container=_container(pod), **options):
            yield name, line


def follow_logs(
    cluster: Cluster, run: str, kind: str, *, index: int | None = None, tail: int | None = None
) -> Iterator[tuple[str, str]]:
    """Lines of all pods as they come, of pods that come later too, until the Job has ended.

    A stream that breaks off is taken up again where it was. Raises `NotReadyError` when the run
    has no such Job.
    """
    lines: queue.Queue[tuple[str, str]] = queue.Queue(maxsize=10_000)
    readers: dict[str, threading.Thread] = {}
    while True:
        rows = patient(lambda: statuses(cluster, run, kind))
        if not rows:
            raise NotReadyError(f"run {run} has no {kind} Job: r2ec-cli k8s status")
        for pod in patient(lambda: _pods(cluster, run, kind, index)):
            name = pod["metadata"]["name"]
            if name not in readers and pod["status"].get("phase") != "Pending":
                reader = threading.Thread(
                    target=_follow, args=(cluster, pod, tail, lines), daemon=True
                )
                readers[name] = reader
                reader.start()
        ended = all(row.state in ("Complete", "Failed") for row in rows)
        yield from _drain(lines, readers, until_done=ended)
        if ended:
            return


def _drain(
    lines: "queue.Queue[tuple[str, str]]", readers: dict[str, threading.Thread], *, until_done: bool
) -> Iterator[tuple[str, str]]:
    """What comes in the next seconds; with `until_done` all that still comes."""
    end = time.monotonic() + _POLL_SECONDS
    while True:
        try:
            yield lines.get(timeout=0.2)
        except queue.Empty:
            is_quiet = not any(reader.is_alive() for reader in readers.values())
            if (until_done and is_quiet) or (not until_done and time.monotonic() > end):
                return
        else:
            if not until_done and time.monotonic() > end:
                return


def _follow(
    cluster: Cluster, pod: Manifest, tail: int | None, lines: "queue.Queue[tuple[str, str]]"
) -> None:
    """Put a pod's lines into the queue until its container has ended."""
    name, last, known, seen_at = pod["metadata"]["name"], "", 0, time.monotonic()
    options: dict[str, int] = {} if tail is None else {"tail_lines": tail}
    while True:
        try:
            # Lines up to the last one known are told by their time of the server's clock.
            skip = known
            for stamped in cluster.log_lines(
                name, container=_container(pod), follow=True, timestamps=True, **options
            ):
                stamp, _, line = stamped.partition(" ")
                if stamp < last:
                    continue
                if stamp == last and skip > 0:
                    skip -= 1
                    continue
                known = known + 1 if stamp == last else 1
                last, seen_at = stamp, time.monotonic()
                lines.put((name, line))
        except UnreachableError:
            pass
        except RefusedError as error:
            if error.status == 404:  # the pod was deleted
                return
            if error.status != 400:  # 400: its container is not there yet
                lines.put((name, f"(no more of its log: {error})"))
                return
        if _has_ended(cluster, name):
            return
        if last:
            options = {"since_seconds": int(time.monotonic() - seen_at) + _OVERLAP_SECONDS}
        time.sleep(0.5)


def _has_ended(cluster: Cluster, name: str) -> bool:
    """Whether all of a pod's log has been there to be read."""
    try:
        pod = patient(lambda: cluster.get("Pod", name))
    except (RefusedError, UnreachableError):
        return True
    return pod is None or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _pods(cluster: Cluster, run: str, kind: str, index: int | None) -> list[Manifest]:
    pods = cluster.find("Pod", selector=selector(run, kind))
    if index is not None:
        pods = [pod for pod in pods if index_of(pod) == index]
    return sorted(
        pods,
        key=lambda pod: (
            index_of(pod) or 0,
            str(pod["metadata"].get("creationTimestamp", "")),
            pod["metadata"]["name"],
        ),
    )


def _container(pod: Manifest) -> str:
    """The container that works: of a pod whose first steps are not done, the one at work."""
    status = pod.get("status", {})
    for entry in status.get("initContainerStatuses", []):
        if entry.get("state", {}).get("terminated", {}).get("exitCode", 1) != 0:
            return str(entry["name"])
    return str(pod["spec"]["containers"][0]["name"])
