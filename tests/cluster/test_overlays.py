"""Overlays and components: what kubectl makes of them is valid, and says what it should."""

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pydantic
import pytest
import yaml

from r2ec.cluster.manifests import RunSettings, pod_templates, run_manifests
from tests.cluster.test_manifests import check_rendezvous, containers, job_spec, places
from tests.factories.custom_resources import strictly_valid_custom
from tests.factories.kustomize import REPOSITORY, kustomize
from tests.factories.schemas import VERSIONS, strictly_valid

Manifest = dict[str, Any]
OVERLAYS = sorted(path.name for path in (REPOSITORY / "k8s/overlays").iterdir())
COMPONENTS = sorted(path.name for path in (REPOSITORY / "k8s/components").iterdir())
CUSTOM = ("JobSet", "TrainJob", "SparkApplication")
RESOURCE_FILES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (REPOSITORY / "k8s/components").rglob("*.yaml")
    if path.name != "kustomization.yaml"
)
KUSTOMIZATIONS = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (REPOSITORY / "k8s").rglob("kustomization.yaml")
)
INVALID = (kubernetes_validate.ValidationError, pydantic.ValidationError, ValueError, KeyError)


def check(manifest: Manifest, version: str) -> None:
    """Strictly, by the schema of Kubernetes or by that of the custom resource."""
    if manifest["kind"] in CUSTOM:
        strictly_valid_custom(manifest)
    else:
        strictly_valid(manifest, version)


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (it for it in manifests if (it["kind"], it["metadata"]["name"]) == (kind, name))
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_renders_to_valid_objects_of_one_namespace(overlay: str) -> None:
    manifests = kustomize(f"k8s/overlays/{overlay}")
    for manifest in manifests:
        for version in VERSIONS:
            check(manifest, version)
        assert manifest["metadata"].get("namespace", "r2ec") == "r2ec"


def test_every_component_is_in_an_overlay() -> None:
    used = "".join(
        (REPOSITORY / f"k8s/overlays/{name}/kustomization.yaml").read_text() for name in OVERLAYS
    )
    assert all(f"../../components/{name}\n" in used for name in COMPONENTS)


@pytest.mark.parametrize("file", RESOURCE_FILES)
def test_a_typing_mistake_anywhere_in_a_resource_is_found(file: str) -> None:
    original = yaml.safe_load((REPOSITORY / file).read_text())
    check(original, VERSIONS[-1])
    for place in places(original):
        broken = copy.deepcopy(original)
        parent = broken
        for key in place[:-1]:
            parent = parent[key]
        parent[f"{place[-1]}x"] = parent.pop(place[-1])
        with pytest.raises(INVALID):
            check(broken, VERSIONS[-1])


@pytest.mark.parametrize("file", KUSTOMIZATIONS)
def test_a_typing_mistake_in_a_kustomization_is_found(file: str, tmp_path: Path) -> None:
    """A wrong field of the file itself, and a wrong last word of each place that it changes."""
    for folder in ("k8s", "configs"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    text = (REPOSITORY / file).read_text()
    mistakes = [
        re.sub(rf"(?m)^{key}:", f"{key}x:", text, count=1)
        for key in re.findall(r"(?m)^([a-zA-Z]+):", text)
        if key not in ("apiVersion", "kind")
    ]
    free = r"(?!\S*labels|\S*requests|spec.selector)"
    wanted = r"(?:path: /|fieldPath: |          - (?=spec))" + free + r"\S+"
    for found in re.finditer(wanted, text):
        word = re.search(r"([A-Za-z]+)((?:/-|/\d+)?\]?)$", found[0])
        if word is not None and not found[0].endswith("completions"):
            end = found.start() + word.end(1)
            mistakes.append(f"{text[:end]}x{text[end:]}")
    assert mistakes
    for mistake in mistakes:
        (tmp_path / file).write_text(mistake)
        with pytest.raises((AssertionError, *INVALID)):
            _check_all(tmp_path, file)


def _check_all(folder: Path, file: str) -> None:
    for overlay in _those_of(file):
        for manifest in kustomize(folder / overlay):
            check(manifest, VERSIONS[-1])


def _those_of(file: str) -> list[str]:
    """Overlays that render a kustomization."""
    folder = Path(file).parent
    if folder.parent.name == "components":
        text = f"../../components/{folder.name}\n"
        names = [
            name
            for name in OVERLAYS
            if text in (REPOSITORY / f"k8s/overlays/{name}/kustomization.yaml").read_text()
        ]
        return [f"k8s/overlays/{name}" for name in names]
    return [folder.as_posix()]


def test_a_run_by_kustomize_is_the_run_of_the_command_line() -> None:
    """Suffix, Service, subdomain and rendezvous in step, and nothing of what runs share."""
    ours = run_manifests("train", "may", RunSettings(), namespace="r2ec")
    theirs = kustomize("k8s/overlays/run")
    check_rendezvous(theirs)
    key = lambda item: item["kind"]  # noqa: E731
    assert sorted(theirs, key=key) == sorted(ours, key=key)


def test_an_overlay_may_be_submitted_by_the_command_line() -> None:
    rendered = kustomize("k8s/overlays/gpu")
    manifests = run_manifests("train", "may", RunSettings(), namespace="r2ec", rendered=rendered)
    assert {item["kind"] for item in manifests} == {"Job", "Service", "PodDisruptionBudget"}
    check_rendezvous(manifests)
    train = find(manifests, "Job", "r2ec-train-may")
    assert containers(train)[0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_gpu_quantities_are_texts_and_shared_memory_is_counted() -> None:
    manifests = kustomize("k8s/overlays/gpu")
    for name in ("train", "embed", "score", "nightly-embed", "nightly-score"):
        kind = "CronJob" if name.startswith("nightly") else "Job"
        manifest = find(manifests, kind, f"r2ec-{name}")
        (template,) = pod_templates(manifest)
        (container,) = containers(manifest)
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert limits["nvidia.com/gpu"] == "1"
        (shm,) = (v["emptyDir"] for v in template["spec"]["volumes"] if v["name"] == "shm")
        assert shm["medium"] == "Memory"
        rest = int(limits["memory"].removesuffix("Gi")) - int(shm["sizeLimit"].removesuffix("Gi"))
        assert rest >= int(requests["memory"].removesuffix("Gi"))
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["shm"] == "/dev/shm"
        names = {entry["name"] for entry in container["env"]}
        assert ("NCCL_DEBUG" in names) is (name == "train")
    publish = containers(find(manifests, "Job", "r2ec-publish"))[0]
    assert "nvidia.com/gpu" not in publish["resources"]["limits"]


def test_a_budget_follows_the_number_of_nodes() -> None:
    manifests = kustomize("k8s/overlays/gpu")
    budget = find(manifests, "PodDisruptionBudget", "r2ec-train")
    train = find(manifests, "Job", "r2ec-train")
    assert budget["spec"]["minAvailable"] == train["spec"]["completions"]
    labels = train["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_jobs_wait_for_kueue() -> None:
    for manifest in kustomize("k8s/overlays/kueue"):
        if pod_templates(manifest):
            assert job_spec(manifest)["suspend"] is True
            owner = manifest["spec"].get("jobTemplate", manifest)
            assert owner["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "r2ec"


def test_a_job_set_runs_the_pods_of_the_job_and_starts_them_again_together() -> None:
    manifests = kustomize("k8s/overlays/jobset")
    job_set = find(manifests, "JobSet", "r2ec-train")
    (node,) = job_set["spec"]["replicatedJobs"]
    job = find(kustomize("k8s/base"), "Job", "r2ec-train")
    spec = node["template"]["spec"]
    assert spec["template"] == job["spec"]["template"]
    assert (spec["completions"], spec["parallelism"]) == (2, 2)
    assert spec["backoffLimit"] == 0  # one lost pod fails the Job, and JobSet starts all anew
    assert job_set["spec"]["failurePolicy"]["maxRestarts"] > 0
    strictly_valid(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": spec},
        VERSIONS[-1],
    )
    assert job_set["spec"]["network"]["subdomain"] == spec["template"]["spec"]["subdomain"]
    kinds = {(item["kind"], item["metadata"]["name"]) for item in manifests}
    assert not kinds & {("Job", "r2ec-train"), ("Service", "r2ec-train")}


def test_a_train_job_has_image_sizes_and_security_of_the_job() -> None:
    manifests = kustomize("k8s/overlays/trainer")
    trained = find(manifests, "TrainJob", "r2ec-train")["spec"]
    job = find(kustomize("k8s/base"), "Job", "r2ec-train")
    (container,) = containers(job)
    pod = job["spec"]["template"]["spec"]
    assert trained["runtimeRef"] == {"name": "torch-distributed"}
    assert trained["trainer"]["image"] == container["image"]
    assert trained["trainer"]["resourcesPerNode"] == container["resources"]
    assert trained["trainer"]["numNodes"] == job["spec"]["completions"]
    patch = trained["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]
    patched = patch["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert patched["securityContext"] == pod["securityContext"]
    assert patched["volumes"] == pod["volumes"]
    assert patched["containers"][0]["securityContext"] == container["securityContext"]
    assert patched["containers"][0]["volumeMounts"] == container["volumeMounts"]
    assert trained["trainer"]["command"][3:7] == ["--shutdown-timeout=270", "-m", "r2ec", "train"]


def test_the_spark_operator_runs_the_jobs_of_the_spark_submit_job() -> None:
    manifests = kustomize("k8s/overlays/spark-operator")
    ours = {
        word.rsplit("/", 1)[-1]: container
        for container in containers(find(kustomize("k8s/base"), "Job", "r2ec-spark"))
        for word in container["command"]
        if word.startswith("local://")
    }
    applications = [item["spec"] for item in manifests if item["kind"] == "SparkApplication"]
    assert len(applications) == len(ours) == 2
    for spec in applications:
        container = ours[spec["mainApplicationFile"].rsplit("/", 1)[-1]]
        assert spec["arguments"] == container["command"][-len(spec["arguments"]) :]
        assert spec["mainApplicationFile"] in container["command"]
        assert spec["image"] == container["image"]
        for role in ("driver", "executor"):
            template = {"apiVersion": "v1", "kind": "Pod", **spec[role]["template"]}
            strictly_valid(template, VERSIONS[-1])
    assert not any(
        (it["kind"], it["metadata"]["name"]) == ("Job", "r2ec-spark") for it in manifests
    )
