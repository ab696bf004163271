"""Every manifest loads, is valid, and names commands, options and configs that exist."""

import copy
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from r2ec.cluster.manifests import (
    FILES,
    JOBS,
    NIGHTLY,
    RunSettings,
    load_manifests,
    pod_templates,
    run_manifests,
    setup_manifests,
    to_yaml,
)
from r2ec.cluster.settings import parse_settings
from r2ec.errors import StoppedError, UsageError
from tests.factories.kustomize import REPOSITORY, kustomize
from tests.factories.schemas import VERSIONS, strictly_valid

BASE = REPOSITORY / "k8s/base"
BASE_FILES = sorted(
    path.relative_to(BASE).as_posix()
    for path in BASE.rglob("*.yaml")
    if path.name != "kustomization.yaml"
)
BASE_FILES.append("../loader.yaml")
DAY_SECONDS = 86400

Manifest = dict[str, Any]


def job(part: str) -> Manifest:
    """The Job or CronJob of a file."""
    (found,) = (item for item in load_manifests(f"{part}.yaml") if pod_templates(item))
    return found


def job_spec(manifest: Manifest) -> Manifest:
    """The spec of a Job, also of the Jobs that a CronJob makes."""
    spec: Manifest = manifest["spec"]
    inner: Manifest = spec["jobTemplate"]["spec"] if "jobTemplate" in spec else spec
    return inner


def containers(manifest: Manifest) -> list[Manifest]:
    """All containers of the pods of a Job or CronJob."""
    (template,) = pod_templates(manifest)
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def variables(container: Manifest) -> dict[str, str]:
    """The variables with a value of their own."""
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", BASE_FILES)
def test_every_manifest_is_valid(file: str, version: str) -> None:
    manifests = load_manifests(file)
    assert manifests
    for manifest in manifests:
        strictly_valid(manifest, version)


@pytest.mark.parametrize("file", BASE_FILES)
def test_a_typing_mistake_anywhere_in_a_manifest_is_found(file: str) -> None:
    for number, manifest in enumerate(load_manifests(file)):
        for place in places(manifest):
            broken = copy.deepcopy(load_manifests(file)[number])
            parent = broken
            for key in place[:-1]:
                parent = parent[key]
            parent[f"{place[-1]}x"] = parent.pop(place[-1])
            with pytest.raises((kubernetes_validate.ValidationError, KeyError)):
                strictly_valid(broken, VERSIONS[-1])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to all fields that the API defines; labels, selectors and quantities are free."""
    if isinstance(value, list):
        return [found for i, item in enumerate(value) for found in places(item, (*path, i))]
    free = ("labels", "selector", "matchLabels", "requests", "limits")
    if not isinstance(value, dict) or path[-1:] in [(name,) for name in free]:
        return []
    here = [(*path, key) for key in value]
    return here + [found for key, item in value.items() for found in places(item, (*path, key))]


def test_kustomize_and_the_command_line_set_up_the_same() -> None:
    """Objects of the same name are equal, whichever way they are made."""
    theirs = {(item["kind"], item["metadata"]["name"]): item for item in kustomize("k8s/base")}
    ours = setup_manifests("r2ec")
    assert len(ours) > 8
    for manifest in ours:
        assert theirs.pop((manifest["kind"], manifest["metadata"]["name"])) == manifest
    rest = [item for part in (*JOBS, *NIGHTLY) for item in load_manifests(f"{part}.yaml")]
    for manifest in rest:
        manifest["metadata"]["namespace"] = "r2ec"
        assert theirs.pop((manifest["kind"], manifest["metadata"]["name"])) == manifest
    assert theirs == {}


def test_the_config_map_holds_the_bytes_of_the_configs() -> None:
    (configs,) = (
        item for item in kustomize("k8s/base") if item["metadata"]["name"] == "r2ec-configs"
    )
    for name, text in configs["data"].items():
        assert (REPOSITORY / "configs" / name).read_text(encoding="utf-8") == text
    (container,) = containers(job("train"))
    (config,) = (word for word in container["command"] if word.startswith("--config="))
    assert config.removeprefix("--config=/etc/r2ec/") in configs["data"]


def test_every_variable_of_a_command_is_set_and_every_setting_is_used() -> None:
    (settings,) = (
        item for item in setup_manifests("r2ec") if item["metadata"]["name"] == "r2ec-settings"
    )
    used = set()
    for part in (*JOBS, *NIGHTLY):
        for container in containers(job(part)):
            words = {
                name for word in container["command"] for name in re.findall(r"\$\((\w+)\)", word)
            }
            own = {entry["name"] for entry in container["env"]}
            assert words <= own | set(settings["data"])
            used |= words - own
    assert used == set(settings["data"])


def test_sizes_and_addresses_of_a_file_agree() -> None:
    for part, name in (("score", "SHARDS"), ("nightly-score", "SHARDS"), ("train", "NODES")):
        spec = job_spec(job(part))
        (container,) = containers(job(part))
        assert variables(container)[name] == str(spec["completions"])
        assert spec["parallelism"] == spec["completions"]
        assert spec["completionMode"] == "Indexed"
    check_rendezvous(load_manifests("train.yaml"))


def check_rendezvous(manifests: list[Manifest]) -> None:
    """Rank 0 is found: Service, subdomain, pod name and port fit together."""
    service = next(item for item in manifests if item["kind"] == "Service")
    train = next(item for item in manifests if item["kind"] == "Job")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    name = train["metadata"]["name"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    pod = train["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    assert variables(container)["SUBDOMAIN"] == pod["subdomain"]
    label = "metadata.labels['batch.kubernetes.io/job-name']"
    (own_name,) = (entry for entry in container["env"] if entry["name"] == "JOB_NAME")
    assert own_name["valueFrom"]["fieldRef"]["fieldPath"] == label
    assert "--master-addr=$(JOB_NAME)-0.$(SUBDOMAIN)" in container["command"]
    assert f"--master-port={service['spec']['ports'][0]['port']}" in container["command"]
    assert f"{name}-0" == f"{name}-0"[:63]  # a host's name has no more


@pytest.mark.parametrize("part", [*JOBS, *NIGHTLY])
def test_pods_pass_the_restricted_standard(part: str) -> None:
    (template,) = pod_templates(job(part))
    pod = template["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is ("spark" in part)
    assert pod["enableServiceLinks"] is False
    assert pod["priorityClassName"] == load_manifests("priority-class.yaml")[0]["metadata"]["name"]
    for container in containers(job(part)):
        check_container(container)


def check_container(container: Manifest) -> None:
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    for name, value in variables(container).items():
        if value.startswith("/") and name != "R2EC_TERMINATION_LOG":
            assert any(value.startswith(mount) for mount in mounts), name
    if "resources" in container:
        assert set(container["resources"]) == {"requests", "limits"}


def test_the_pod_that_takes_files_passes_the_restricted_standard() -> None:
    (loader,) = load_manifests("../loader.yaml")
    check_container(loader["spec"]["containers"][0])
    assert loader["spec"]["securityContext"]["runAsNonRoot"] is True
    assert loader["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("file", ["spark/driver.yaml", "spark/executor.yaml"])
def test_pods_of_spark_pass_the_restricted_standard(file: str) -> None:
    (template,) = load_manifests(file)
    pod = template["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is ("driver" in file)
    (container,) = pod["containers"]
    check_container(container)
    conf = dict(
        line.split(maxsplit=1)
        for line in (BASE / "spark/spark-defaults.conf").read_text().splitlines()
        if line and not line.startswith("#")
    )
    role = Path(file).stem
    (mount,) = (
        mount["mountPath"]
        for mount in containers(job("spark"))[0]["volumeMounts"]
        if mount["name"] == "spark"
    )
    assert conf[f"spark.kubernetes.{role}.podTemplateFile"] == f"{mount}/{Path(file).name}"
    assert conf[f"spark.kubernetes.{role}.podTemplateContainerName"] == container["name"]


@pytest.mark.parametrize("part", [*JOBS, *NIGHTLY])
def test_exit_codes_decide_whether_a_pod_is_tried_again(part: str) -> None:
    rules = job_spec(job(part))["podFailurePolicy"]["rules"]
    assert rules[0] == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    for container in containers(job(part)):
        actions = {
            code: rule["action"]
            for rule in rules[1:]
            for code in rule["onExitCodes"]["values"]
            if rule["onExitCodes"]["containerName"] == container["name"]
        }
        gate = "FailIndex" if "score" in part else "FailJob"
        assert actions == {2: "FailJob", 3: "Ignore", 4: gate, StoppedError.exit_code: "Ignore"}


@pytest.mark.parametrize("part", NIGHTLY)
def test_what_runs_at_night_is_the_job_and_ends_before_the_day_changes(part: str) -> None:
    cron, single = job(part), job(part.removeprefix("nightly-"))
    spec = cron["spec"]
    assert spec["timeZone"] == "Etc/UTC"
    minute, hour, *_ = spec["schedule"].split()
    latest_start = int(hour) * 3600 + int(minute) * 60 + spec["startingDeadlineSeconds"]
    nightly, daily = copy.deepcopy(job_spec(cron)), job_spec(single)
    assert latest_start + nightly["activeDeadlineSeconds"] < DAY_SECONDS
    nightly["activeDeadlineSeconds"] = daily["activeDeadlineSeconds"]
    if part == "nightly-embed":
        command = nightly["template"]["spec"]["containers"][0]["command"]
        assert command.pop() == "--catalog-version=$(R2EC_DATE)"
    assert nightly == daily
    settings = (BASE / "settings.env").read_text()
    assert "R2EC_DATE=yesterday\n" in settings


@pytest.mark.parametrize("kind", list(FILES))
def test_a_run_renames_everything_together_and_stays_valid(kind: str) -> None:
    pod, training = parse_settings(
        ["memory=3Gi", "gpu=2", "queue=shop", "retries=2", "env.NCCL_DEBUG=INFO"],
        image="registry.example/r2ec:1",
    )
    settings = RunSettings(
        size=8 if kind in ("train", "score", "nightly") else None,
        processes=2 if kind == "train" else None,
        config_file=REPOSITORY / "configs/demo.toml" if kind == "train" else None,
        environment={"R2EC_DATE": "2024-06-01", "R2EC_WAREHOUSE": "s3://shop/warehouse"},
        pod=pod,
    )
    assert training == ()
    manifests = run_manifests(kind, "may", settings, namespace="shop")
    for manifest in manifests:
        strictly_valid(manifest, VERSIONS[-1])
        assert manifest["metadata"]["namespace"] == "shop"
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "may"
        assert re.fullmatch(rf"r2ec-{kind}(-\w+)?-may(-config)?", manifest["metadata"]["name"])
    text = to_yaml(manifests)
    assert list(yaml.safe_load_all(text)) == manifests
    for manifest in manifests:
        for template in pod_templates(manifest):
            check_run(manifest, template, kind)
    if kind == "train":
        check_rendezvous(manifests)
        (config,) = (item for item in manifests if item["kind"] == "ConfigMap")
        assert config["data"]["demo.toml"] == (REPOSITORY / "configs/demo.toml").read_text()
        volumes = pod_templates(manifests[-1])[0]["spec"]["volumes"]
        names = [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]
        assert names == [config["metadata"]["name"]]


def check_run(manifest: Manifest, template: Manifest, kind: str) -> None:
    """The settings of the test above have reached a Job."""
    spec = job_spec(manifest)
    assert template["metadata"]["labels"]["app.kubernetes.io/instance"] == "may"
    assert spec["suspend"] is True
    component = manifest["metadata"]["labels"]["app.kubernetes.io/component"]
    for container in containers(manifest):
        assert container["image"] == "registry.example/r2ec:1"
        values = variables(container)
        assert (values["R2EC_DATE"], values["NCCL_DEBUG"]) == ("2024-06-01", "INFO")
        names = [entry["name"] for entry in container["env"]]
        assert len(names) == len(set(names))
        if component in ("score", "train"):
            assert values["SHARDS" if component == "score" else "NODES"] == "8"
            assert spec["completions"] == spec["parallelism"] == 8
        if kind == "train":
            assert values["PROCESSES"] == "2"
    limits = containers(manifest)[-1]["resources"]["limits"]
    assert limits == {"memory": "3Gi", "nvidia.com/gpu": "2"}


def test_another_config_is_another_template(tmp_path: Path) -> None:
    digests = set()
    for seed in (1, 2):
        file = tmp_path / "own.toml"
        file.write_text(f"seed = {seed}\n")
        settings = RunSettings(config_file=file)
        (train,) = (
            item
            for item in run_manifests("train", "a", settings, namespace="r2ec")
            if item["kind"] == "Job"
        )
        digests.add(train["spec"]["template"]["metadata"]["annotations"]["r2ec/config-sha256"])
    assert len(digests) == 2


def test_wrong_settings_of_a_run_are_refused() -> None:
    for run in ("May", "-a", "a" * 41, "a.b", ""):
        with pytest.raises(UsageError, match="run name"):
            run_manifests("embed", run, RunSettings(), namespace="r2ec")
    with pytest.raises(UsageError, match="up to 29"):
        run_manifests("nightly", "a" * 30, RunSettings(), namespace="r2ec")
    for kind, settings in (
        ("embed", RunSettings(size=2)),
        ("score", RunSettings(size=0)),
        ("score", RunSettings(processes=2)),
        ("publish", RunSettings(config_file=REPOSITORY / "configs/demo.toml")),
        ("scoring", RunSettings()),
    ):
        with pytest.raises(UsageError):
            run_manifests(kind, "a", settings, namespace="r2ec")
    for pair in ("memory=much", "colour=red", "retries=-1", "memory", "gpu="):
        with pytest.raises(UsageError, match=re.escape(repr(pair))):
            parse_settings([pair])
    for pair in (
        "gpu=0.5",
        "gpu=1Gi",
        "retries=²",
        "queue=My queue",
        "priority=High",
        "secret=a/b",
    ):
        with pytest.raises(UsageError, match=re.escape(repr(pair))):
            parse_settings([pair])
    for image in ("r2ec score:1", ""):
        with pytest.raises(UsageError, match="--image"):
            parse_settings([], image=image)
    assert parse_settings(["recpo.steps=5"])[1] == ("--set=recpo.steps=5",)
