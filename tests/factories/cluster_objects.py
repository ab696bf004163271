"""Jobs and pods as a cluster has them, for tests that read them."""

from typing import Any

Manifest = dict[str, Any]
NOW = "2024-05-31T00:00:00Z"


def labels(run: str, kind: str, **more: str) -> dict[str, str]:
    """Labels of the objects of a run."""
    return {
        "app.kubernetes.io/name": "r2ec",
        "app.kubernetes.io/instance": run,
        "app.kubernetes.io/component": kind,
        **more,
    }


def pod_spec() -> Manifest:
    """A pod that passes the restricted standard."""
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "r2ec",
                "image": "r2ec/score:0.1.0",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }


def job(run: str, kind: str, status: Manifest, completions: int | None = None) -> Manifest:
    """A Job; `managedBy` keeps a controller, where there is one, from having its own opinion."""
    spec: Manifest = {
        "managedBy": "example.com/tests",
        "template": {"metadata": {"labels": labels(run, kind)}, "spec": pod_spec()},
    }
    if completions is not None:
        spec |= {
            "completions": completions,
            "parallelism": completions,
            "completionMode": "Indexed",
            "backoffLimitPerIndex": 1,
        }
    metadata = {"name": f"r2ec-{kind}-{run}", "labels": labels(run, kind)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": spec,
        "status": {"startTime": NOW, **status},
    }


def condition(kind: str, message: str = "", reason: str = "Because") -> Manifest:
    """A condition of a Job or pod that holds."""
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": NOW,
        "lastProbeTime": NOW,
    }


def failed(message: str) -> list[Manifest]:
    """Conditions of a Job that has failed."""
    return [condition("FailureTarget", message), condition("Failed", message)]


def complete() -> list[Manifest]:
    """Conditions of a Job that is done."""
    return [condition("SuccessCriteriaMet"), condition("Complete")]


def pod(run: str, kind: str, name: str, status: Manifest, index: int | None = None) -> Manifest:
    """A pod of a Job."""
    its = {"batch.kubernetes.io/job-name": f"r2ec-{kind}-{run}"}
    if index is not None:
        its["batch.kubernetes.io/job-completion-index"] = str(index)
    metadata = {"name": name, "labels": labels(run, kind, **its)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": pod_spec(),
        "status": status,
    }


def ended(code: int, message: str = "", reason: str = "Error") -> Manifest:
    """Status of a pod whose container has ended with a code."""
    terminated = {
        "exitCode": code,
        "reason": reason if code else "Completed",
        "message": message,
        "startedAt": NOW,
        "finishedAt": NOW,
    }
    return {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [container({"terminated": terminated})],
    }


def waiting(reason: str, message: str) -> Manifest:
    """Status of a pod whose container can't start."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [container(state)]}


def container(state: Manifest) -> Manifest:
    """Status of the container r2ec."""
    return {
        "name": "r2ec",
        "image": "r2ec/score:0.1.0",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }
