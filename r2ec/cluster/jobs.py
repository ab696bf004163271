"""Runs on a cluster: submit, look at, read logs of and delete them (the only Kubernetes import).

Bodies and answers are plain dictionaries: responses are read raw, so that the models of one
client version, which change from version to version, play no part.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import kubernetes
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from r2ec.cluster.manifests import RUN_LABEL, Manifest
from r2ec.errors import NotReadyError, R2ecError, UsageError

FIELD_MANAGER = "r2ec-cli"
_TIMEOUT_SECONDS = 30
_REMEDIES = {
    401: "the token is missing or expired: log in again, or renew the kubeconfig",
    403: "your account may not do this in the namespace: ask for a role that may",
    404: "there is none: look with r2ec-cli k8s status; or the namespace is not set up: "
    "r2ec-cli k8s submit setup",
    409: "another manager owns the field, or the object is being deleted: see the message",
    422: "a field is wrong or cannot be changed on a Job: delete the run, or take another name",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """One Job of a run; `indexes_*` as Kubernetes writes them, such as `0-3,5`, empty elsewhere."""

    kind: str
    run: str
    state: str
    wanted: int
    active: int
    succeeded: int
    failed: int
    indexes_done: str
    indexes_failed: str
    message: str
    age_seconds: float


class Cluster:
    """A namespace of the cluster that the kubeconfig, or the pod this runs in, points at.

    Every method raises `R2ecError` with what the server said and what to do.
    """

    def __init__(self, namespace: str, *, context: str | None = None) -> None:
        _load_config(context)
        self.namespace = namespace
        client = kubernetes.client.ApiClient()
        self._core = kubernetes.client.CoreV1Api(client)
        self._batch = kubernetes.client.BatchV1Api(client)

    def apply(self, manifests: list[Manifest], *, dry_run: bool = False) -> list[str]:
        """Server-side apply of the objects, in order; returns `kind/name` of each.

        With `dry_run` the server checks and admits them, and keeps nothing.
        """
        names = []
        for manifest in manifests:
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            patches: dict[str, Callable[..., Any]] = {
                "Namespace": self._core.patch_namespace,
                "ServiceAccount": self._core.patch_namespaced_service_account,
                "PersistentVolumeClaim": self._core.patch_namespaced_persistent_volume_claim,
                "ConfigMap": self._core.patch_namespaced_config_map,
                "Service": self._core.patch_namespaced_service,
                "Job": self._batch.patch_namespaced_job,
            }
            place = (name,) if kind == "Namespace" else (name, self.namespace)
            options: dict[str, Any] = {"dry_run": "All"} if dry_run else {}
            _call(
                f"{kind.lower()}/{name}",
                patches[kind],
                *place,
                manifest,
                field_manager=FIELD_MANAGER,
                _content_type="application/apply-patch+yaml",
                **options,
            )
            names.append(f"{kind.lower()}/{name}")
        return names

    def statuses(self, run: str | None = None) -> list[RunStatus]:
        """All runs, or all Jobs of one, the oldest first."""
        jobs = _call(
            "the jobs",
            self._batch.list_namespaced_job,
            self.namespace,
            label_selector=_selector(run),
        )["items"]
        jobs.sort(key=lambda job: (job["metadata"]["creationTimestamp"], job["metadata"]["name"]))
        return [_status(job) for job in jobs]

    def logs(
        self, run: str, kind: str, *, index: int | None = None, tail: int | None = None
    ) -> Iterator[tuple[str, str]]:
        """Lines of the pods' logs so far, as (pod name, line), pod after pod.

        Raises `NotReadyError` when the run has no such pod.
        """
        pods = _call(
            "the pods",
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=_selector(run, kind),
        )["items"]
        if index is not None:
            pods = [pod for pod in pods if _index(pod) == index]
        if not pods:
            which = "" if index is None else f" with index {index}"
            raise NotReadyError(f"run {run} has no {kind} pod{which}: r2ec-cli k8s status")
        options: dict[str, Any] = {} if tail is None else {"tail_lines": tail}
        for pod in sorted(pods, key=lambda pod: (_index(pod), pod["metadata"]["name"])):
            name = pod["metadata"]["name"]
            if pod["status"].get("phase") == "Pending":
                yield name, f"(waiting: {_waiting(pod)})"
                continue
            read = self._core.read_namespaced_pod_log
            data = _call_raw(f"the log of pod {name}", read, name, self.namespace, **options)
            for line in data.decode(errors="replace").splitlines():
                yield name, line

    def delete(self, run: str, kind: str | None = None) -> list[str]:
        """Delete the Jobs of a run with their pods, its Services and ConfigMaps; returns names.

        What the pods wrote stays. Raises `NotReadyError` when nothing of the run is there.
        """
        deleted = []
        for what, list_all, delete in (
            ("job", self._batch.list_namespaced_job, self._batch.delete_namespaced_job),
            ("service", self._core.list_namespaced_service, self._core.delete_namespaced_service),
            (
                "configmap",
                self._core.list_namespaced_config_map,
                self._core.delete_namespaced_config_map,
            ),
        ):
            selector = _selector(run, kind)
            found = _call(f"the {what}s", list_all, self.namespace, label_selector=selector)
            for item in found["items"]:
                name = item["metadata"]["name"]
                _call(
                    f"{what}/{name}",
                    delete,
                    name,
                    self.namespace,
                    propagation_policy="Background",
                )
                deleted.append(f"{what}/{name}")
        if not deleted:
            raise NotReadyError(f"nothing of run {run} is there: r2ec-cli k8s status")
        return deleted


def _load_config(context: str | None) -> None:
    """The kubeconfig where there is one, else the account of the pod this runs in."""
    file = os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
    in_cluster: Callable[..., None] = kubernetes.config.load_incluster_config
    from_file: Callable[..., None] = kubernetes.config.load_kube_config
    try:
        if not os.path.exists(file.split(os.pathsep)[0]) and context is None:
            in_cluster()
        else:
            from_file(config_file=file, context=context)
    except ConfigException as error:
        raise UsageError(
            f"no cluster: {error} (looked at {file} and for a pod's account); "
            "set KUBECONFIG or give --context"
        ) from error


def _call(what: str, call: Callable[..., Any], *arguments: object, **options: object) -> Any:
    return json.loads(_call_raw(what, call, *arguments, **options))


def _call_raw(what: str, call: Callable[..., Any], *arguments: object, **options: object) -> bytes:
    """Call the API and return the bytes of the answer; errors become messages for people."""
    try:
        response = call(
            *arguments, _preload_content=False, _request_timeout=_TIMEOUT_SECONDS, **options
        )
        return bytes(response.data)
    except ApiException as error:
        remedy = _REMEDIES.get(error.status or 0, "see the message")
        raise R2ecError(f"{what}: {_server_message(error)} ({error.status}); {remedy}") from error
    except HTTPError as error:
        raise R2ecError(f"{what}: the API server does not answer: {error}") from error


def _server_message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body or "{}")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def _selector(run: str | None = None, kind: str | None = None) -> str:
    labels = {
        "app.kubernetes.io/name": "r2ec",
        RUN_LABEL: run,
        "app.kubernetes.io/component": kind,
    }
    return ",".join(f"{name}={value}" for name, value in labels.items() if value is not None)


def _status(job: Manifest) -> RunStatus:
    status, labels = job.get("status", {}), job["metadata"].get("labels", {})
    conditions = {
        condition["type"]: condition
        for condition in status.get("conditions", [])
        if condition["status"] == "True"
    }
    state = next((kind for kind in ("Failed", "Complete", "Suspended") if kind in conditions), "")
    created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    return RunStatus(
        kind=labels.get("app.kubernetes.io/component", "?"),
        run=labels.get(RUN_LABEL, ""),
        state=state or ("Running" if status.get("active") else "Waiting"),
        wanted=job["spec"].get("completions") or 1,
        active=status.get("active", 0),
        succeeded=status.get("succeeded", 0),
        failed=status.get("failed", 0),
        indexes_done=status.get("completedIndexes", ""),
        indexes_failed=status.get("failedIndexes", ""),
        message=conditions.get(state, {}).get("message", ""),
        age_seconds=max(0.0, (datetime.now(UTC) - created).total_seconds()),
    )


def _index(pod: Manifest) -> int:
    labels = pod["metadata"].get("labels", {})
    return int(labels.get("batch.kubernetes.io/job-completion-index", 0))


def _waiting(pod: Manifest) -> str:
    """Why a pod has no log yet: its container's reason, else why it is not scheduled."""
    for container in pod["status"].get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting")
        if waiting:
            return f"{waiting.get('reason', '')} {waiting.get('message', '')}".strip()
    for condition in pod["status"].get("conditions", []):
        if condition["status"] == "False" and condition.get("message"):
            return str(condition["message"])
    return "not scheduled yet"
