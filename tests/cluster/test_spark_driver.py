"""`k8s spark-submit`: the exit code of a driver in cluster mode, and what a second try finds."""

import threading
import time
from pathlib import Path

import pytest

from r2ec.cluster.jobs import Cluster
from r2ec.cluster.spark_driver import find_own_pod, run_driver, submit_command
from r2ec.errors import StoppedError, UsageError
from tests.factories.api_server import ApiServer
from tests.factories.cluster_objects import condition, ended, pod

ARGUMENTS = ("--properties-file=/etc/x.conf", "local:///opt/r2ec/jobs/build_catalog.py", "--date=d")


@pytest.fixture
def spark_submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spark-submit that ends with 0, as in cluster mode; the file that counts its runs."""
    runs = tmp_path / "runs"
    runs.write_text("")
    script = tmp_path / "spark-submit"
    script.write_text(f'#!/bin/sh\necho "$@" >> {runs}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("r2ec.cluster.spark_driver._POLL_SECONDS", 0.1)
    return runs


def put_driver(server: ApiServer, namespace: str, status: dict) -> None:
    driver = pod("may", "spark", "driver-1", status)
    server.create(f"/api/v1/namespaces/{namespace}/pods", driver)


@pytest.mark.parametrize("code", [0, 1, 3, 4])
def test_the_code_is_the_drivers_although_spark_submit_ends_with_none(
    server: ApiServer, namespace: str, spark_submit: Path, code: int
) -> None:
    place = f"/api/v1/namespaces/{namespace}/pods"
    script = spark_submit.with_name("spark-submit")
    made = spark_submit.with_name("made")
    # Like the real one it waits until the driver has ended, and then says nothing of how.
    script.write_text(f"{script.read_text()}while [ ! -e {made} ]; do sleep 0.05; done\n")

    def drive() -> None:
        while not spark_submit.read_text():
            time.sleep(0.05)
        server.create(place, pod("may", "spark", "driver-1", ended(code, "error: the reason")))
        made.write_text("")

    driving = threading.Thread(target=drive)
    driving.start()
    assert run_driver(Cluster(namespace), "driver-1", ARGUMENTS, own_pod=None) == code
    driving.join()


def test_a_driver_that_is_done_or_at_work_is_not_run_twice(
    server: ApiServer, namespace: str, spark_submit: Path
) -> None:
    put_driver(server, namespace, ended(0))
    assert run_driver(Cluster(namespace), "driver-1", ARGUMENTS, own_pod=None) == 0
    assert spark_submit.read_text() == ""


def test_a_driver_that_failed_is_removed_and_run_again(
    server: ApiServer, namespace: str, spark_submit: Path
) -> None:
    put_driver(server, namespace, ended(1))
    with pytest.raises(StoppedError, match="driver-1 is gone"):  # none comes from this submit
        run_driver(Cluster(namespace), "driver-1", ARGUMENTS, own_pod=None)
    assert len(spark_submit.read_text().splitlines()) == 1


def test_a_driver_of_a_drained_node_is_tried_again(
    server: ApiServer, namespace: str, spark_submit: Path
) -> None:
    drained = ended(143)
    drained["conditions"] = [condition("DisruptionTarget", reason="EvictionByEvictionAPI")]
    put_driver(server, namespace, {"phase": "Running"})
    place = f"/api/v1/namespaces/{namespace}/pods/driver-1/status"
    ending = threading.Timer(
        0.3, server.send, ("PATCH", place, {"status": drained}, "application/merge-patch+json")
    )
    ending.start()
    code = run_driver(Cluster(namespace), "driver-1", ARGUMENTS, own_pod=None)
    ending.join()
    assert code == StoppedError.exit_code
    assert spark_submit.read_text() == ""


def test_a_driver_of_an_earlier_job_of_the_same_name_is_no_answer(
    server: ApiServer, namespace: str, spark_submit: Path, tmp_path: Path
) -> None:
    """After `submit --replace`, or delete and submit, the jobs are to run again."""
    (tmp_path / "driver.yaml").write_text("metadata: {}\nspec: {}\n")
    properties = tmp_path / "x.conf"
    properties.write_text(f"spark.kubernetes.driver.podTemplateFile  {tmp_path / 'driver.yaml'}\n")
    words = (f"--properties-file={properties}", *ARGUMENTS[1:])
    own = pod("may", "spark", "submitter", {"phase": "Running"})
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "r2ec-spark-may"}
    own["metadata"]["ownerReferences"] = [owner | {"uid": "00000000-0000-4000-8000-000000000002"}]
    old = pod("may", "spark", "driver-1", ended(0))
    old["metadata"]["ownerReferences"] = [owner | {"uid": "00000000-0000-4000-8000-000000000001"}]
    server.create(f"/api/v1/namespaces/{namespace}/pods", old)
    with pytest.raises(StoppedError, match="driver-1 is gone"):  # none comes from this submit
        run_driver(Cluster(namespace), "driver-1", words, own_pod=own)
    (run,) = spark_submit.read_text().splitlines()
    (template,) = (word for word in run.split() if word.startswith("spark.kubernetes.driver.podT"))
    text = Path(template.partition("=")[2]).read_text()
    assert "00000000-0000-4000-8000-000000000002" in text


def test_the_pod_that_submits_is_found_by_its_name(
    server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"/api/v1/namespaces/{namespace}/pods"
    server.create(place, pod("may", "spark", "submitter", {"phase": "Running"}))
    monkeypatch.setenv("HOSTNAME", "node-7")
    monkeypatch.setenv("POD_NAME", "submitter")
    assert find_own_pod(Cluster(namespace))["metadata"]["name"] == "submitter"
    monkeypatch.delenv("POD_NAME")
    with pytest.raises(UsageError, match=r"no pod 'node-7' in namespace .*POD_NAME"):
        find_own_pod(Cluster(namespace))


def test_driver_and_executors_get_the_image_and_the_run_of_the_pod_that_submits() -> None:
    own = pod("may", "spark", "submitter", {"phase": "Running"})
    command = submit_command("shop", "driver-1", ARGUMENTS, own_pod=own)
    assert command[0] == "spark-submit"
    assert tuple(command[-3:]) == ARGUMENTS
    assert "spark.kubernetes.namespace=shop" in command
    assert "spark.kubernetes.driver.pod.name=driver-1" in command
    assert "spark.kubernetes.container.image=r2ec/score:0.1.0" in command
    label = "label.app.kubernetes.io/instance=may"
    assert f"spark.kubernetes.driver.{label}" in command
    assert f"spark.kubernetes.executor.{label}" in command
