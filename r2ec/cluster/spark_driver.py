"""A Spark job in cluster mode from a pod: submit it, wait, and end with the driver's exit code.

spark-submit itself ends with 0 whatever became of the driver. The driver's pod has a name of its
own, so that a pod that replaces this one finds it: at work, done, or failed and to be run again.
It belongs to the Job of this pod and goes with it; one of an earlier Job of that name is removed.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from r2ec.cluster.jobs import Cluster
from r2ec.cluster.manifests import RUN_LABEL, Manifest
from r2ec.cluster.runs import patient
from r2ec.errors import R2ecError, StoppedError, UsageError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_POLL_SECONDS = 5.0
_GONE_SECONDS = 120.0
_TEMPLATE = "spark.kubernetes.driver.podTemplateFile"


def own_namespace() -> str:
    """The namespace of the pod this runs in; `R2EC_NAMESPACE` elsewhere.

    Raises `UsageError` where there is neither.
    """
    file = ACCOUNT / "namespace"
    if file.exists():
        return file.read_text("utf-8").strip()
    if "R2EC_NAMESPACE" not in os.environ:
        raise UsageError("in no pod, and R2EC_NAMESPACE names no namespace to submit to")
    return os.environ["R2EC_NAMESPACE"]


def find_own_pod(cluster: Cluster) -> Manifest:
    """The pod this runs in, whose name is in `POD_NAME` or else `HOSTNAME`.

    Raises `UsageError` where there is no such pod.
    """
    name = os.environ.get("POD_NAME") or os.environ.get("HOSTNAME", "")
    pod = patient(lambda: cluster.get("Pod", name))
    if pod is None:
        raise UsageError(
            f"no pod {name!r} in namespace {cluster.namespace}: this runs in a pod, and POD_NAME "
            "has to be that pod's name"
        )
    return pod


def run_driver(
    cluster: Cluster, driver: str, arguments: tuple[str, ...], *, own_pod: Manifest | None
) -> int:
    """Run a Spark application with a driver pod of this name to its end; returns its exit code.

    `arguments` are those of spark-submit. `own_pod` is the pod this runs in: its image and its
    run's label go to the driver and the executors. One that is done already is not run again.
    """
    pod = patient(lambda: cluster.get("Pod", driver))
    job = _job_of(own_pod)
    if pod is not None and job is not None and (_job_of(pod) or {}).get("uid") != job["uid"]:
        print(f"driver {driver} is of an earlier Job: removed", flush=True)
        _remove(cluster, driver)
        pod = None
    if pod is not None and _phase(pod) == "Succeeded":
        print(f"driver {driver} is done already", flush=True)
        return 0
    if pod is not None and _phase(pod) == "Failed":
        _remove(cluster, driver)
        pod = None
    if pod is None:
        command = submit_command(cluster.namespace, driver, arguments, own_pod=own_pod)
        done = subprocess.run(command, check=False)
        if done.returncode:
            return done.returncode
    return _await_end(cluster, driver)


def submit_command(
    namespace: str, driver: str, arguments: tuple[str, ...], *, own_pod: Manifest | None
) -> list[str]:
    """spark-submit with what only the submitting pod knows put before the arguments."""
    conf = {
        "spark.kubernetes.namespace": namespace,
        "spark.kubernetes.driver.pod.name": driver,
    }
    if own_pod is not None:
        conf["spark.kubernetes.container.image"] = own_pod["spec"]["containers"][0]["image"]
        run = own_pod["metadata"].get("labels", {}).get(RUN_LABEL)
        if run is not None:
            for role in ("driver", "executor"):
                conf[f"spark.kubernetes.{role}.label.{RUN_LABEL}"] = run
        job = _job_of(own_pod)
        if job is not None:
            conf[_TEMPLATE] = _owned_template(arguments, job)
    settings = [word for name, value in conf.items() for word in ("--conf", f"{name}={value}")]
    return ["spark-submit", *settings, *arguments]


def _job_of(pod: Manifest | None) -> Manifest | None:
    """The reference to the Job that a pod belongs to."""
    owners = [] if pod is None else pod["metadata"].get("ownerReferences", [])
    return next((owner for owner in owners if owner["kind"] == "Job"), None)


def _owned_template(arguments: tuple[str, ...], job: Manifest) -> str:
    """A copy of the driver's pod template with its Job as owner; returns the file."""
    (properties,) = (
        word.partition("=")[2] for word in arguments if word.startswith("--properties-file=")
    )
    lines = Path(properties).read_text(encoding="utf-8").splitlines()
    (source,) = (line.split()[1] for line in lines if line.split()[:1] == [_TEMPLATE])
    template = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
    owner = {key: job[key] for key in ("apiVersion", "kind", "name", "uid")}
    template["metadata"]["ownerReferences"] = [owner]
    handle, file = tempfile.mkstemp(prefix="driver-", suffix=".yaml")
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        yaml.safe_dump(template, out)
    return file


def _await_end(cluster: Cluster, driver: str) -> int:
    while True:
        pod = patient(lambda: cluster.get("Pod", driver))
        if pod is None:
            raise StoppedError(f"driver pod {driver} is gone: it was deleted, or its node was lost")
        if _phase(pod) in ("Succeeded", "Failed"):
            return _exit_code(pod)
        time.sleep(_POLL_SECONDS)


def _exit_code(pod: Manifest) -> int:
    """The code of the driver's container; 75 where Kubernetes took the pod away."""
    status = pod.get("status", {})
    if status.get("phase") == "Succeeded":
        return 0
    for condition in status.get("conditions", []):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return StoppedError.exit_code
    for container in status.get("containerStatuses", []):
        ended = container.get("state", {}).get("terminated")
        if ended and ended.get("exitCode"):
            if ended.get("message"):
                sys.stderr.write(f"{ended['message'].strip()}\n")
            return int(ended["exitCode"])
    return R2ecError.exit_code


def _remove(cluster: Cluster, driver: str) -> None:
    cluster.delete("Pod", driver)
    end = time.monotonic() + _GONE_SECONDS
    while cluster.get("Pod", driver) is not None:
        if time.monotonic() > end:
            raise R2ecError(f"pod/{driver} is still being deleted after {_GONE_SECONDS:.0f} s")
        time.sleep(0.5)


def _phase(pod: Manifest) -> str:
    return str(pod.get("status", {}).get("phase", ""))
