"""A Spark job in cluster mode from a pod: submit it, wait, and end with the driver's exit code.

spark-submit itself ends with 0 whatever became of the driver. The driver's pod has a name of its
own, so that a pod that replaces this one finds it: at work, done, or failed and to be run again.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from r2ec.cluster.jobs import Cluster
from r2ec.cluster.manifests import RUN_LABEL, Manifest
from r2ec.cluster.runs import patient
from r2ec.errors import R2ecError, StoppedError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_POLL_SECONDS = 5.0
_GONE_SECONDS = 120.0


def own_namespace() -> str:
    """The namespace of the pod this runs in; `R2EC_NAMESPACE` elsewhere."""
    file = ACCOUNT / "namespace"
    return file.read_text("utf-8").strip() if file.exists() else os.environ["R2EC_NAMESPACE"]


def run_driver(
    cluster: Cluster, driver: str, arguments: tuple[str, ...], *, own_pod: Manifest | None
) -> int:
    """Run a Spark application with a driver pod of this name to its end; returns its exit code.

    `arguments` are those of spark-submit. `own_pod` is the pod this runs in: its image and its
    run's label go to the driver and the executors. One that is done already is not run again.
    """
    pod = patient(lambda: cluster.get("Pod", driver))
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
    settings = [word for name, value in conf.items() for word in ("--conf", f"{name}={value}")]
    return ["spark-submit", *settings, *arguments]


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
