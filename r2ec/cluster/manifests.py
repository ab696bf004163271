"""The manifests of one run: the files of `k8s/base` with the run's name, image and sizes set.

Objects are plain dictionaries, as they stand in the files; no Kubernetes library is needed.
"""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from r2ec.errors import UsageError

Manifest = dict[str, Any]

JOBS = ("train", "embed", "score", "publish")
SETUP = ("namespace.yaml", "service-account.yaml", "volume.yaml")
RUN_LABEL = "app.kubernetes.io/instance"

_RUN_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_CONFIG_FOLDER = "/etc/r2ec"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """What one run changes in the manifest of its job; None leaves what the file says.

    `size` is the number of shards (score) or nodes (train), `processes` those of one node,
    `environment` values such as `R2EC_DATE`, `config_file` a TOML for training, `arguments` are
    put behind the command.
    """

    image: str | None = None
    size: int | None = None
    processes: int | None = None
    config_file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


def base_folder() -> Traversable:
    """`k8s/base`, in the repository or in an installed package."""
    packaged = files("r2ec").joinpath("k8s")
    folder = packaged if packaged.is_dir() else Path(__file__).parents[2] / "k8s"
    return folder.joinpath("base")


def load_manifests(name: str) -> list[Manifest]:
    """All objects of one file of `k8s/base`."""
    text = base_folder().joinpath(name).read_text(encoding="utf-8")
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def setup_manifests(namespace: str) -> list[Manifest]:
    """What the runs of a namespace share: itself, the service account, the volume, settings."""
    manifests = [manifest for name in SETUP for manifest in load_manifests(name)]
    lines = base_folder().joinpath("settings.env").read_text(encoding="utf-8").splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line)
    manifests.append(_config_map("r2ec-settings", settings, {"app.kubernetes.io/name": "r2ec"}))
    for manifest in manifests:
        if manifest["kind"] == "Namespace":
            manifest["metadata"]["name"] = namespace
        else:
            manifest["metadata"]["namespace"] = namespace
    return manifests


def run_manifests(kind: str, run: str, settings: RunSettings, *, namespace: str) -> list[Manifest]:
    """The objects of one run of `kind` (`train`, `embed`, `score`, `publish`).

    Every name ends in the run's, the Service, the pods' subdomain and the address of rank 0 with
    it. Raises `UsageError` for a name or a setting that the job cannot take.
    """
    if kind not in JOBS:
        raise UsageError(f"{kind!r} is no job; there are {', '.join(JOBS)}")
    if not _RUN_NAME.fullmatch(run):
        raise UsageError(f"run name {run!r}: give up to 40 of a-z, 0-9 and -, none of - at an end")
    manifests = [copy.deepcopy(manifest) for manifest in load_manifests(f"{kind}.yaml")]
    manifests = [_renamed(manifest, f"r2ec-{kind}", f"r2ec-{kind}-{run}") for manifest in manifests]
    for manifest in manifests:
        manifest["metadata"]["namespace"] = namespace
        manifest["metadata"].setdefault("labels", {})[RUN_LABEL] = run
        if manifest["kind"] == "Job":
            manifest["spec"]["template"]["metadata"]["labels"][RUN_LABEL] = run
            config_map = _set_job(manifest, kind, settings)
            if config_map is not None:
                config_map["metadata"]["namespace"] = namespace
                manifests = [config_map, *manifests]
    return manifests


def to_yaml(manifests: list[Manifest]) -> str:
    """The objects as YAML documents, as `kubectl apply -f -` takes them."""
    # Texts of several lines stand as they are, and no value refers to another one.
    dumper: Any = type("ReadableDumper", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
    dumper.add_representer(str, _represent_text)
    text: str = yaml.dump_all(
        manifests, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text


def _represent_text(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _set_job(job: Manifest, kind: str, settings: RunSettings) -> Manifest | None:
    """Put the settings into the Job; returns the ConfigMap it needs besides, if any."""
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    if settings.image is not None:
        container["image"] = settings.image
    if settings.size is not None:
        option = {"score": "--num-shards", "train": "--nnodes"}.get(kind)
        if option is None or settings.size < 1:
            raise UsageError(f"size {settings.size}: score takes shards, train takes nodes, from 1")
        spec["completions"] = spec["parallelism"] = settings.size
        if "maxFailedIndexes" in spec:
            spec["maxFailedIndexes"] = settings.size - 1
        _set_option(container, option, str(settings.size))
    if settings.processes is not None:
        if kind != "train" or settings.processes < 1:
            raise UsageError(f"{settings.processes} processes: only train takes them, from 1")
        _set_option(container, "--nproc-per-node", str(settings.processes))
    given = [{"name": name, "value": value} for name, value in settings.environment.items()]
    kept = [entry for entry in container["env"] if entry["name"] not in settings.environment]
    # The kubelet fills in $(R2EC_DATE); what stands in env wins over envFrom.
    container["env"] = [*given, *kept]
    container["command"] += settings.arguments
    if settings.config_file is None:
        return None
    if kind != "train":
        raise UsageError(f"{settings.config_file}: only train takes a config")
    name, file = f"{job['metadata']['name']}-config", settings.config_file
    _set_option(container, "--config", f"{_CONFIG_FOLDER}/{file.name}")
    for volume in pod["volumes"]:
        if volume["name"] == "configs":
            volume["configMap"]["name"] = name
    text = file.read_text(encoding="utf-8")
    return _config_map(name, {file.name: text}, job["metadata"]["labels"])


def _set_option(container: Manifest, option: str, value: str) -> None:
    command = container["command"]
    (place,) = (i for i, word in enumerate(command) if word.startswith(f"{option}="))
    command[place] = f"{option}={value}"


def _config_map(name: str, data: dict[str, str], labels: dict[str, str]) -> Manifest:
    metadata = {"name": name, "labels": dict(labels)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _renamed(value: Any, old: str, new: str) -> Any:
    """The value with `old` replaced where it stands as a whole name, also within addresses."""
    if isinstance(value, dict):
        return {key: _renamed(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, old, new) for item in value]
    if isinstance(value, str):
        # r2ec-train, r2ec-train-0.r2ec-train; not r2ec-trainer
        return re.sub(rf"\b{re.escape(old)}(?=$|\.|-\d+\.)", new, value)
    return value
