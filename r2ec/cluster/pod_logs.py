"""The logs of a run's pods: what is there, or all of them as they come, each line with its pod."""

import queue
import re
import threading
import time
from collections.abc import Iterator
from datetime import datetime

from r2ec.cluster.jobs import Cluster
from r2ec.cluster.manifests import Manifest
from r2ec.cluster.refusals import RefusedError, UnreachableError
from r2ec.cluster.runs import patient, selector, statuses
from r2ec.cluster.status import index_of, waiting_reason
from r2ec.errors import NotReadyError

_POLL_SECONDS = 2.0
# Asked for again after a break: lines from this long before the last one; those known are left out.
_OVERLAP_SECONDS = 10
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


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
        containers = _started(pod)
        if not containers:
            yield name, f"(waiting: {waiting_reason(pod)})"
        for container in containers:
            try:
                for line in cluster.log_lines(name, container=container, **options):
                    yield name, line
            except RefusedError as error:
                if error.status not in (400, 404):
                    raise
                yield name, f"(no log: {error})"  # it never began, or has just been deleted


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
            if name not in readers and _started(pod):
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
    cluster: Cluster, pod: Manifest | None, tail: int | None, lines: "queue.Queue[tuple[str, str]]"
) -> None:
    """Put a pod's lines into the queue, container after container, until it has ended."""
    assert pod is not None
    name, followed = pod["metadata"]["name"], set[str]()
    try:
        while pod is not None:
            container = next((each for each in _started(pod) if each not in followed), None)
            if container is not None:
                followed.add(container)
                _follow_container(cluster, name, container, tail, lines)
            elif _has_ended(pod):
                return
            else:
                time.sleep(0.5)
            pod = patient(lambda: cluster.get("Pod", name))
    except (RefusedError, UnreachableError) as error:
        lines.put((name, f"(no more of its log: {error})"))


def _follow_container(
    cluster: Cluster,
    name: str,
    container: str,
    tail: int | None,
    lines: "queue.Queue[tuple[str, str]]",
) -> None:
    """Put a container's lines into the queue until it has ended; a broken stream is taken up."""
    last, known, seen_at = (0.0, ""), 0, time.monotonic()
    options: dict[str, int] = {} if tail is None else {"tail_lines": tail}
    while True:
        # Asked before the stream: what is written between its break and the end comes too.
        pod = patient(lambda: cluster.get("Pod", name))
        is_over, skip = pod is None or _has_ended(pod, container), known
        try:
            for text in cluster.log_lines(
                name, container=container, follow=True, timestamps=True, **options
            ):
                stamp, line = _split_stamp(text)
                if stamp is None:  # a word of the node itself
                    lines.put((name, line))
                    continue
                # Lines up to the last one known are told by their time of the server's clock.
                if stamp < last:
                    continue
                if stamp == last and skip > 0:
                    skip -= 1
                    continue
                known = known + 1 if stamp == last else 1
                last, seen_at = stamp, time.monotonic()
                lines.put((name, line))
            if is_over:
                return
        except UnreachableError:
            pass
        except RefusedError as error:
            if error.status == 404 or (error.status == 400 and is_over):
                return  # the pod was deleted, or its container never began
            if error.status != 400:  # 400: its container is not there yet
                raise
        if last[1]:
            # A line may be read long after it was written; clocks may differ.
            age = max(time.monotonic() - seen_at, time.time() - last[0])
            options = {"since_seconds": int(age) + _OVERLAP_SECONDS}
        time.sleep(0.5)


def _split_stamp(text: str) -> tuple[tuple[float, str] | None, str]:
    """The time of a line, as seconds and nine digits, or None; and what the pod wrote."""
    stamp, _, line = text.partition(" ")
    found = _STAMP.fullmatch(stamp)
    if found is None:
        return None, text
    seconds = datetime.fromisoformat(found[1] + found[3]).timestamp()
    return (seconds, (found[2] or "").ljust(9, "0")), line


def _has_ended(pod: Manifest, container: str | None = None) -> bool:
    """Whether a pod, or one of its containers, writes no more."""
    ended = {
        entry["name"]: "terminated" in entry.get("state", {}) for entry in _container_statuses(pod)
    }
    is_over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return is_over or (container is not None and ended.get(container, False))


def _started(pod: Manifest) -> list[str]:
    """The containers that may have written something, in the order in which they run.

    Those that go first run while the pod as a whole is still `Pending`.
    """
    statuses = _container_statuses(pod)
    if not statuses and pod.get("status", {}).get("phase") != "Pending":
        return [str(pod["spec"]["containers"][0]["name"])]
    begun = ("running", "terminated")
    return [entry["name"] for entry in statuses if set(begun) & set(entry.get("state", {}))]


def _container_statuses(pod: Manifest) -> list[Manifest]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


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
