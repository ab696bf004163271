"""Every manifest loads, is valid, and names commands, options and configs that exist."""

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from r2ec.cli.main import load_command
from r2ec.cluster.manifests import (
    JOBS,
    RunSettings,
    load_manifests,
    run_manifests,
    setup_manifests,
    to_yaml,
)
from r2ec.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[2]
VERSIONS = ("1.30", "1.32", "1.34", "1.36")
KUSTOMIZATIONS = ("configs", "k8s/base", "k8s/overlays/cpu")
FILES = sorted(
    path.relative_to(REPOSITORY / "k8s/base").as_posix()
    for path in (REPOSITORY / "k8s/base").glob("*.yaml")
    if path.name != "kustomization.yaml"
)

Manifest = dict[str, Any]


def validate(manifest: Manifest, version: str) -> None:
    """Strictly: a field that the kind does not have is an error."""
    kubernetes_validate.validate(manifest, version, strict=True)


def job(kind: str) -> Manifest:
    (found,) = (item for item in load_manifests(f"{kind}.yaml") if item["kind"] == "Job")
    return found


def command_of(manifest: Manifest) -> list[str]:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    command: list[str] = container["command"]
    return command


def option(command: list[str], name: str) -> str:
    (value,) = (word.split("=", 1)[1] for word in command if word.startswith(f"{name}="))
    return value


def kustomize(folder: str) -> list[Manifest]:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on the path")
    command = ["kubectl", "kustomize", str(REPOSITORY / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES)
def test_every_manifest_is_valid(file: str, version: str) -> None:
    manifests = load_manifests(file)
    assert manifests
    for manifest in manifests:
        validate(manifest, version)


@pytest.mark.parametrize("file", FILES)
def test_a_typing_mistake_anywhere_in_a_manifest_is_found(file: str) -> None:
    for number, manifest in enumerate(load_manifests(file)):
        for place in places(manifest):
            broken = copy.deepcopy(load_manifests(file)[number])
            parent = broken
            for key in place[:-1]:
                parent = parent[key]
            parent[f"{place[-1]}x"] = parent.pop(place[-1])
            with pytest.raises((kubernetes_validate.ValidationError, KeyError)):
                validate(broken, VERSIONS[-1])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to all fields that the API defines; labels, selectors and quantities are free."""
    if isinstance(value, list):
        return [found for i, item in enumerate(value) for found in places(item, (*path, i))]
    if not isinstance(value, dict) or path[-1:] in [
        ("labels",),
        ("selector",),
        ("requests",),
        ("limits",),
    ]:
        return []
    here = [(*path, key) for key in value]
    return here + [found for key, item in value.items() for found in places(item, (*path, key))]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", KUSTOMIZATIONS)
def test_every_kustomization_renders_to_valid_objects(folder: str, version: str) -> None:
    manifests = kustomize(folder)
    for manifest in manifests:
        validate(manifest, version)
    if folder != "configs":
        assert {item["metadata"].get("namespace", "r2ec") for item in manifests} == {"r2ec"}


def test_the_config_map_holds_the_bytes_of_the_configs() -> None:
    (configs,) = (
        item for item in kustomize("k8s/base") if item["metadata"]["name"] == "r2ec-configs"
    )
    for name, text in configs["data"].items():
        assert (REPOSITORY / "configs" / name).read_text(encoding="utf-8") == text
    config = option(command_of(job("train")), "--config")
    assert config.removeprefix("/etc/r2ec/") in configs["data"]


def test_settings_of_kustomize_and_of_the_command_line_are_the_same() -> None:
    (ours,) = (item for item in setup_manifests("r2ec") if item["kind"] == "ConfigMap")
    (theirs,) = (
        item for item in kustomize("k8s/base") if item["metadata"]["name"] == "r2ec-settings"
    )
    assert ours["data"] == theirs["data"]
    used = {
        name
        for kind in JOBS
        for word in command_of(job(kind))
        for name in re.findall(r"\$\((R2EC_\w+)\)", word)
    }
    assert used == set(ours["data"])


@pytest.mark.parametrize("kind", JOBS)
def test_every_command_line_is_one_that_the_command_takes(kind: str) -> None:
    command = [re.sub(r"\$\((NODE_RANK|SHARD)\)", "0", word) for word in command_of(job(kind))]
    command = [word.replace("$(R2EC_DATE)", "2024-05-31") for word in command]
    if command[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        parsed = get_args_parser().parse_args(command[1:])
        assert (parsed.module, parsed.training_script) == (True, "r2ec")
        assert (parsed.node_rank, parsed.max_restarts) == (0, 0)
        command = ["r2ec-cli", *parsed.training_script_args]
    assert command[0] == "r2ec-cli"
    name, arguments = command[1], command[2:]
    arguments = [word.replace("/etc/r2ec/", f"{REPOSITORY}/configs/") for word in arguments]
    entry = load_command(name)
    with click.Context(entry, info_name=name) as context:
        entry.parse_args(context, arguments)
    helped = [sys.executable, "-m", "r2ec", name, "--help"]
    assert "Usage" in subprocess.run(helped, capture_output=True, text=True, check=True).stdout


def test_sizes_names_and_addresses_of_a_file_agree() -> None:
    score, train = job("score"), job("train")
    assert option(command_of(score), "--num-shards") == str(score["spec"]["completions"])
    assert option(command_of(train), "--nnodes") == str(train["spec"]["completions"])
    for manifest in (score, train):
        assert manifest["spec"]["parallelism"] == manifest["spec"]["completions"]
        assert manifest["spec"]["completionMode"] == "Indexed"
    check_rendezvous(load_manifests("train.yaml"))


def check_rendezvous(manifests: list[Manifest]) -> None:
    """Rank 0 is found: Service, subdomain, pod name and port fit together."""
    service = next(item for item in manifests if item["kind"] == "Service")
    train = next(item for item in manifests if item["kind"] == "Job")
    name = train["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    pod = train["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    command = command_of(train)
    assert option(command, "--master-addr") == f"{name}-0.{pod['subdomain']}"
    assert option(command, "--master-port") == str(service["spec"]["ports"][0]["port"])


@pytest.mark.parametrize("kind", JOBS)
def test_pods_pass_the_restricted_standard(kind: str) -> None:
    pod = job(kind)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]) == {"requests", "limits"}
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        writable = [entry["value"] for entry in container["env"] if "/" in entry.get("value", "")]
        assert all(any(path.startswith(mount) for mount in mounts) for path in writable)
    (namespace,) = load_manifests("namespace.yaml")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("kind", JOBS)
def test_a_run_renames_everything_together_and_stays_valid(kind: str) -> None:
    settings = RunSettings(
        image="registry.example/r2ec:1",
        size=8 if kind in ("train", "score") else None,
        processes=2 if kind == "train" else None,
        config_file=REPOSITORY / "configs/demo.toml" if kind == "train" else None,
        environment={"R2EC_DATE": "2024-06-01", "R2EC_WAREHOUSE": "s3://shop/warehouse"},
    )
    manifests = run_manifests(kind, "may", settings, namespace="shop")
    for manifest in manifests:
        validate(manifest, VERSIONS[-1])
        assert manifest["metadata"]["namespace"] == "shop"
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "may"
        assert f"r2ec-{kind}-may" in manifest["metadata"]["name"]
    text = to_yaml(manifests)
    assert list(yaml.safe_load_all(text)) == manifests
    assert not re.search(rf"r2ec-{kind}(?!-may)", text)
    rendered = next(item for item in manifests if item["kind"] == "Job")
    (container,) = rendered["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/r2ec:1"
    assert {"name": "R2EC_DATE", "value": "2024-06-01"} in container["env"]
    if kind == "score":
        assert option(container["command"], "--num-shards") == "8"
        assert rendered["spec"]["completions"] == rendered["spec"]["parallelism"] == 8
    if kind == "train":
        check_rendezvous(manifests)
        assert option(container["command"], "--nnodes") == "8"
        assert option(container["command"], "--nproc-per-node") == "2"
        (config,) = (item for item in manifests if item["kind"] == "ConfigMap")
        assert config["data"]["demo.toml"] == (REPOSITORY / "configs/demo.toml").read_text()
        volumes = rendered["spec"]["template"]["spec"]["volumes"]
        names = [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]
        assert names == [config["metadata"]["name"]]


def test_setup_is_valid_and_in_the_namespace_asked_for() -> None:
    manifests = setup_manifests("shop")
    kinds = [manifest["kind"] for manifest in manifests]
    assert kinds == ["Namespace", "ServiceAccount", "PersistentVolumeClaim", "ConfigMap"]
    for manifest in manifests:
        validate(manifest, VERSIONS[-1])
    assert manifests[0]["metadata"]["name"] == "shop"
    assert {item["metadata"]["namespace"] for item in manifests[1:]} == {"shop"}


def test_wrong_settings_of_a_run_are_refused() -> None:
    for run in ("May", "-a", "a" * 41, "a.b", ""):
        with pytest.raises(UsageError, match="run name"):
            run_manifests("embed", run, RunSettings(), namespace="r2ec")
    for kind, settings in (
        ("embed", RunSettings(size=2)),
        ("score", RunSettings(size=0)),
        ("score", RunSettings(processes=2)),
        ("publish", RunSettings(config_file=REPOSITORY / "configs/demo.toml")),
        ("scoring", RunSettings()),
    ):
        with pytest.raises(UsageError):
            run_manifests(kind, "a", settings, namespace="r2ec")
