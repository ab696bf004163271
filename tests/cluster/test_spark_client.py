"""Spark's own client against an API server: the pods it makes, and the rights that it takes.

spark-submit and a driver run here as in their pods, with the files of k8s/base; of the driver's and
the executors' pods only the objects are there.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r2ec.cluster.jobs import Cluster
from r2ec.cluster.manifests import load_manifests
from r2ec.cluster.spark_driver import run_driver
from tests.cluster.test_manifests import BASE, check_container
from tests.factories.api_server import ADMIN, ApiServer
from tests.factories.cluster_objects import ended, pod
from tests.factories.commands import finish

Manifest = dict[str, Any]
K8s = Callable[..., str]
VOLUMES = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "secret"}
APPLICATION = """
from pyspark.sql import SparkSession
SparkSession.builder.appName("build_catalog").getOrCreate().stop()
"""


@pytest.fixture
def account(
    server: ApiServer, namespace: str, k8s: K8s, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A token of the drivers' ServiceAccount, in KUBECONFIG too; the mock judges by no roles."""
    k8s("submit", "setup")
    token = ADMIN
    if server.rules is None:
        place = f"/api/v1/namespaces/{namespace}/serviceaccounts/r2ec-driver/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = server.send("POST", place, request)["status"]["token"]
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path, token)))
    return token


@pytest.fixture
def settings(
    server: ApiServer, account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, ...]:
    """Arguments of spark-submit: those of the manifest, with the addresses of this machine."""
    programs = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    text = (BASE / "spark/spark-defaults.conf").read_text().replace("/etc/r2ec-spark", "PLACE")
    (tmp_path / "spark-defaults.conf").write_text(text.replace("PLACE", str(tmp_path)))
    for name in ("driver.yaml", "executor.yaml"):
        shutil.copy(BASE / "spark" / name, tmp_path)
    return (
        f"--properties-file={tmp_path / 'spark-defaults.conf'}",
        f"--conf=spark.master=k8s://{server.address}",
        "--conf=spark.kubernetes.submission.waitAppCompletion=false",
        "--conf=spark.driver.extraJavaOptions=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    )


def owned_pod(uid: str) -> Manifest:
    """The pod that submits, of a Job with this uid."""
    made = pod("may", "spark", "submitter", {"phase": "Running"})
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "r2ec-spark-may", "uid": uid}
    made["metadata"]["ownerReferences"] = [owner | {"controller": True}]
    made["spec"]["containers"][0]["image"] = "registry.example/r2ec/spark:1"
    return made


def rights_of(name: str) -> set[tuple[str, str]]:
    """(verb, resource) that a Role of k8s/base gives."""
    roles = [item for item in load_manifests("service-account.yaml") if item["kind"] == "Role"]
    (role,) = (item for item in roles if item["metadata"]["name"] == name)
    assert all(rule["apiGroups"] == [""] for rule in role["rules"])
    return {
        (verb, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


def rights_used(server: ApiServer) -> set[tuple[str, str]]:
    """(verb, resource) of the requests that a mock has seen; an apply may also create."""
    assert server.rules is not None
    used = set()
    for request in server.rules.seen:
        path = request.url.path
        found = re.search(r"/namespaces/[^/]+/(?P<kind>[a-z]+)(/(?P<name>[^/]+))?", path)
        assert found is not None
        verbs = {"POST": ["create"], "PATCH": ["patch", "create"], "DELETE": ["delete"]}.get(
            request.method.value, ["get"]
        )
        if found["name"] is None and verbs == ["get"]:
            verbs = ["watch" if "watch" in request.params else "list"]
        if found["name"] is None and verbs == ["delete"]:
            verbs = ["deletecollection"]
        assert path.startswith("/api/v1/"), path
        used |= {(verb, found["kind"]) for verb in verbs}
    return used


def check_pod(made: Manifest, role: str) -> None:
    """What the standard `restricted` asks of a pod, and that the volume and settings are there."""
    spec = made["spec"]
    assert made["metadata"]["labels"]["spark-role"] == role
    assert made["metadata"]["labels"]["app.kubernetes.io/instance"] == "may"
    assert made["metadata"]["labels"]["app.kubernetes.io/name"] == "r2ec"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is (role == "driver")
    assert not {"hostNetwork", "hostPID", "hostIPC"} & {key for key in spec if spec[key]}
    for volume in spec["volumes"]:
        assert set(volume) - {"name"} <= VOLUMES
    (container,) = spec["containers"]
    assert container["image"] == "registry.example/r2ec/spark:1"
    check_container(container)
    assert {source.popitem()[0] for source in container["envFrom"]} >= {"configMapRef"}


def end_driver(
    server: ApiServer, place: str, found: list[Manifest], submitted: threading.Event
) -> None:
    """Keep the driver's pod as it was made, and let it be done; or wait until `submitted` is set.

    A busy machine takes minutes to submit it, and nobody else would end what waits for the pod.
    """
    while not found:
        if submitted.wait(0.1):
            return
        found += [it for it in server.items(place) if it["metadata"]["name"] == "driver-1"]
    status = {"status": ended(0)}
    server.send("PATCH", f"{place}/driver-1/status", status, "application/merge-patch+json")


def test_the_driver_that_spark_submits_is_admitted_and_belongs_to_the_job(
    server: ApiServer, namespace: str, settings: tuple[str, ...]
) -> None:
    place = f"/api/v1/namespaces/{namespace}/pods"
    made: list[Manifest] = []
    if server.rules is not None:
        server.rules.seen.clear()
    submitted = threading.Event()
    ending = threading.Thread(target=end_driver, args=(server, place, made, submitted))
    ending.start()
    words = (*settings, "local:///opt/r2ec/jobs/build_catalog.py", "--items=x")
    own = owned_pod("00000000-0000-4000-8000-000000000001")
    try:
        code = run_driver(Cluster(namespace), "driver-1", words, own_pod=own)
    finally:
        submitted.set()
        ending.join()
    assert code == 0
    check_pod(made[0], "driver")
    (owner,) = made[0]["metadata"]["ownerReferences"]
    assert owner["uid"] == "00000000-0000-4000-8000-000000000001"
    spec = made[0]["spec"]
    assert spec["serviceAccountName"] == "r2ec-driver"
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["containers"][0]["args"][-2:] == list(words[-2:])
    if server.rules is not None:
        assert rights_used(server) <= rights_of("r2ec-driver")


def test_the_executors_that_a_driver_makes_are_admitted(
    server: ApiServer, namespace: str, account: str, settings: tuple[str, ...], tmp_path: Path
) -> None:
    place = f"/api/v1/namespaces/{namespace}/pods"
    server.create(place, pod("may", "spark", "driver-1", {"phase": "Running"}))
    if server.rules is not None:
        server.rules.seen.clear()
    script = tmp_path / "application.py"
    script.write_text(APPLICATION)
    conf = {
        "spark.driver.host": "127.0.0.1",
        "spark.kubernetes.authenticate.oauthToken": account,
        "spark.kubernetes.container.image": "registry.example/r2ec/spark:1",
        "spark.kubernetes.driver.pod.name": "driver-1",
        "spark.kubernetes.executor.label.app.kubernetes.io/instance": "may",
        "spark.kubernetes.namespace": namespace,
        "spark.scheduler.maxRegisteredResourcesWaitingTime": "4s",
        "spark.submit.deployMode": "client",
    }
    if server.ca_file is not None:
        conf["spark.kubernetes.authenticate.caCertFile"] = str(server.ca_file)
    words = [f"--conf={name}={value}" for name, value in conf.items()]
    made: list[Manifest] = []
    driver = subprocess.Popen(
        ["spark-submit", *settings, *words, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYSPARK_PYTHON": sys.executable},
    )
    while driver.poll() is None and len(made) < 4:
        made = [it for it in server.items(place) if "exec" in it["metadata"]["name"]]
        time.sleep(0.1)
    finish(driver)
    assert len(made) == 4
    for executor in made:
        check_pod(executor, "executor")
        assert executor["metadata"]["ownerReferences"][0]["name"] == "driver-1"
        assert executor["spec"]["containers"][0]["resources"]["limits"]["memory"] in (
            "3072Mi",
            "3Gi",
        )
    if server.rules is not None:
        assert rights_used(server) <= rights_of("r2ec-driver")
