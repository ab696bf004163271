"""What a Job and its pods say of a run: pure functions of the objects as the server gives them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from r2ec.cluster.manifests import RUN_LABEL, Manifest
from r2ec.errors import StoppedError

# Container r2ec for pod r2ec/x failed with exit code 4 matching FailJob rule at index 4
_DECISIVE = re.compile(r"exit code (\d+) matching FailJob")
_INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """How the last pod of an index that failed ended; `message` is its last words."""

    index: int | None
    pod: str
    exit_code: int | None
    reason: str
    message: str
    was_stopped: bool = False

    def __str__(self) -> str:
        where = "" if self.index is None else f"{self.index}: "
        code = "" if self.exit_code is None else f"exit {self.exit_code}"
        reason = "" if self.reason in ("", "Error") else f"({self.reason})"
        return f"{where}{' '.join(part for part in (code, reason) if part) or 'failed'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """One Job (or CronJob) of a run. `indexes_*` are as Kubernetes writes them, such as `0-3,5`.

    `restarts` counts pods that were replaced, `failures` has the last one of each index, and
    `exit_codes` are those that made it fail: none where Kubernetes ended the pods.
    """

    name: str
    kind: str
    run: str
    state: str
    wanted: int
    active: int
    succeeded: int
    restarts: int
    indexes_done: str
    indexes_failed: str
    failures: tuple[Failure, ...]
    exit_codes: frozenset[int]
    message: str
    age_seconds: float


def status_of(job: Manifest, pods: list[Manifest], events: list[Manifest]) -> RunStatus:
    """The status of a Job or CronJob from the object, its pods and its warning events."""
    status, spec, labels = job.get("status", {}), job["spec"], job["metadata"].get("labels", {})
    failures, state = _failures(pods), _state(job)
    codes = _exit_codes(job, failures)
    return RunStatus(
        name=job["metadata"]["name"],
        kind=labels.get("app.kubernetes.io/component", "?"),
        run=labels.get(RUN_LABEL, ""),
        state=state,
        wanted=spec.get("completions") or 1,
        active=len(status["active"]) if state == "Scheduled" else status.get("active", 0),
        succeeded=status.get("succeeded", 0),
        # The Job's own count leaves out what was ignored, the pods those that were deleted.
        restarts=max(status.get("failed", 0), sum(_phase(pod) == "Failed" for pod in pods)),
        indexes_done=status.get("completedIndexes", ""),
        indexes_failed=status.get("failedIndexes", ""),
        failures=failures,
        exit_codes=codes,
        message=_message(
            job, state, pods, [it for it in failures if it.exit_code in codes] or failures, events
        ),
        age_seconds=_age_seconds(job),
    )


def index_of(pod: Manifest) -> int | None:
    """The completion index of a pod, None in a Job without them."""
    metadata = pod["metadata"]
    for place in (metadata.get("labels", {}), metadata.get("annotations", {})):
        if _INDEX in place:
            return int(place[_INDEX])
    return None


def waiting_reason(pod: Manifest) -> str:
    """Why a pod has not started: its container's reason, else why it is not scheduled."""
    status = pod.get("status", {})
    both = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    for container in both:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") != "PodInitializing":
            return f"{waiting.get('reason', '')} {waiting.get('message', '')}".strip()
    for condition in status.get("conditions", []):
        if condition["status"] == "False" and condition.get("message"):
            return str(condition["message"])
    return "not scheduled yet"


def _conditions(job: Manifest) -> dict[str, Manifest]:
    conditions = job.get("status", {}).get("conditions", [])
    return {entry["type"]: entry for entry in conditions if entry["status"] == "True"}


def _state(job: Manifest) -> str:
    if "jobTemplate" in job["spec"]:
        job.setdefault("status", {}).setdefault("active", [])
        return "Suspended" if job["spec"].get("suspend") else "Scheduled"
    held = _conditions(job)
    for state in ("Failed", "Complete", "Suspended"):
        if state in held:
            return state
    if "FailureTarget" in held:
        return "Failing"
    return "Running" if job.get("status", {}).get("active") else "Waiting"


def _failures(pods: list[Manifest]) -> tuple[Failure, ...]:
    """The last failed pod of each index that has none which succeeded, by index."""
    last: dict[int | None, Manifest] = {}
    done = {index_of(pod) for pod in pods if _phase(pod) == "Succeeded"}
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", ""))):
        if _phase(pod) == "Failed" and index_of(pod) not in done:
            last[index_of(pod)] = pod
    return tuple(_failure(last[index]) for index in sorted(last, key=lambda index: index or 0))


def _failure(pod: Manifest) -> Failure:
    status = pod.get("status", {})
    both = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    ended = [container.get("state", {}).get("terminated") for container in both]
    worst: Manifest = next((end for end in ended if end and end.get("exitCode")), {})
    disrupted = next(
        (
            entry.get("reason", "Disrupted")
            for entry in status.get("conditions", [])
            if entry["type"] == "DisruptionTarget" and entry["status"] == "True"
        ),
        "",
    )
    words = str(worst.get("message") or status.get("message") or "").strip()
    return Failure(
        index=index_of(pod),
        pod=pod["metadata"]["name"],
        exit_code=worst.get("exitCode"),
        reason=disrupted or worst.get("reason") or status.get("reason", ""),
        message=words.splitlines()[-1] if words else "",
        was_stopped=bool(disrupted) or worst.get("exitCode") == StoppedError.exit_code,
    )


def _exit_codes(job: Manifest, failures: tuple[Failure, ...]) -> frozenset[int]:
    """The code that made the Job fail where it says so: its other pods were then told to stop."""
    for condition in _conditions(job).values():
        found = _DECISIVE.search(str(condition.get("message", "")))
        if found is not None:
            return frozenset({int(found[1])})
    codes = (failure.exit_code for failure in failures if not failure.was_stopped)
    return frozenset(code for code in codes if code is not None)


def _message(
    job: Manifest,
    state: str,
    pods: list[Manifest],
    failures: Sequence[Failure],
    events: list[Manifest],
) -> str:
    """The one thing to know: why it failed, or what it waits for."""
    if state in ("Scheduled", "Complete"):
        schedule = f"{job['spec'].get('schedule')} {job['spec'].get('timeZone', '')}"
        last = job.get("status", {}).get("lastScheduleTime", "never")
        return f"{schedule}; last {last}" if state == "Scheduled" else ""
    condition = _conditions(job).get("FailureTarget" if state == "Failing" else state, {})
    words = next((failure.message for failure in reversed(failures) if failure.message), "")
    pending = next((waiting_reason(pod) for pod in pods if _phase(pod) == "Pending"), "")
    event = str(events[-1].get("message", "")) if events else ""
    parts = [str(condition.get("message", "")), words, pending, event]
    return "; ".join(dict.fromkeys(part for part in parts if part))


def _phase(pod: Manifest) -> str:
    return str(pod.get("status", {}).get("phase", ""))


def _age_seconds(job: Manifest) -> float:
    created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    return max(0.0, (datetime.now(UTC) - created).total_seconds())
