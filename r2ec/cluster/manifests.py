"""The manifests of one run: the files of `k8s/base` with the run's name, image and sizes set.

Objects are plain dictionaries, as they stand in the files; no Kubernetes library is needed.
"""

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from r2ec.cluster.settings import CONFIG_HASH, PodSettings, set_pod, set_queue
from r2ec.errors import UsageError

Manifest = dict[str, Any]

JOBS = ("spark", "init", "train", "embed", "score", "publish")
NIGHTLY = ("nightly-spark", "nightly-embed", "nightly-score", "nightly-publish")
FILES = {**{kind: (kind,) for kind in JOBS}, "nightly": NIGHTLY}
SETUP = (
    "namespace.yaml",
    "priority-class.yaml",
    "service-account.yaml",
    "network-policy.yaml",
    "volume.yaml",
)
RUN_LABEL = "app.kubernetes.io/instance"

_RUN_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_LONGEST_RUN_NAME = {"nightly": 29}  # a CronJob's name has 52 characters at most
_CONFIG_FOLDER = "/etc/r2ec"
_LABELS = {"app.kubernetes.io/name": "r2ec"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """What one run changes in the manifest of its job; None leaves what the file says.

    `size` is the number of shards (score) or nodes (train), `processes` those of one node,
    `environment` values such as `R2EC_DATE`, `config_file` a TOML for training, `arguments` are
    put behind the command, `pod` is what its pods get.
    """

    size: int | None = None
    processes: int | None = None
    config_file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    pod: PodSettings = field(default_factory=PodSettings)


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
    """What the runs of a namespace share: itself, accounts, policies, the volume, settings."""
    manifests = [manifest for name in SETUP for manifest in load_manifests(name)]
    base = base_folder()
    lines = base.joinpath("settings.env").read_text(encoding="utf-8").splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line)
    spark = {
        name: base.joinpath("spark", name).read_text(encoding="utf-8")
        for name in ("spark-defaults.conf", "driver.yaml", "executor.yaml")
    }
    configs = {"demo.toml": _demo_config()}
    for name, data in (
        ("r2ec-configs", configs),
        ("r2ec-settings", settings),
        ("r2ec-spark-defaults", spark),
    ):
        manifests.append(_config_map(name, data, _LABELS))
    for manifest in manifests:
        _put_in_namespace(manifest, namespace)
    return manifests


def run_manifests(
    kind: str,
    run: str,
    settings: RunSettings,
    *,
    namespace: str,
    rendered: list[Manifest] | None = None,
) -> list[Manifest]:
    """The objects of one run of `kind` (`spark`, `train`, `embed`, `score`, `publish`, `nightly`).

    Every name ends in the run's, the Service, the pods' subdomain and the address of rank 0 with
    it. `rendered` are objects to take in place of `k8s/base`: what `kubectl kustomize` made of an
    overlay. Raises `UsageError` for a name or a setting that the job cannot take.
    """
    if kind not in FILES:
        raise UsageError(f"{kind!r} is no job; there are {', '.join(FILES)}")
    _check_run_name(kind, run)
    manifests = []
    for part in FILES[kind]:
        found = _of_part(part, rendered)
        manifests += [_renamed(item, f"r2ec-{part}", f"r2ec-{part}-{run}") for item in found]
    for manifest in copy.copy(manifests):
        _put_in_namespace(manifest, namespace)
        manifest["metadata"].setdefault("labels", {})[RUN_LABEL] = run
        for template in pod_templates(manifest):
            template["metadata"].setdefault("labels", {})[RUN_LABEL] = run
        if manifest["kind"] == "CronJob":
            labels = manifest["spec"]["jobTemplate"]["metadata"].setdefault("labels", {})
            labels[RUN_LABEL] = run
        if manifest["kind"] in ("Job", "CronJob"):
            config_map = _set_job(manifest, kind, settings)
            if config_map is not None:
                _put_in_namespace(config_map, namespace)
                manifests.insert(0, config_map)
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


def read_rendered(text: str, source: str) -> list[Manifest]:
    """The objects of a stream of YAML documents. Raises `UsageError` where it is none."""
    try:
        found = [manifest for manifest in yaml.safe_load_all(text) if manifest]
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    if not found or not all(isinstance(item, dict) and "kind" in item for item in found):
        raise UsageError(f"{source}: no Kubernetes objects; give what kubectl kustomize printed")
    return found


def pod_templates(manifest: Manifest) -> list[Manifest]:
    """The pod templates of a Job or a CronJob; none of another kind."""
    if manifest["kind"] == "CronJob":
        return [manifest["spec"]["jobTemplate"]["spec"]["template"]]
    return [manifest["spec"]["template"]] if manifest["kind"] == "Job" else []


def _represent_text(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _check_run_name(kind: str, run: str) -> None:
    longest = _LONGEST_RUN_NAME.get(kind, 40)
    if not _RUN_NAME.fullmatch(run) or len(run) > longest:
        raise UsageError(
            f"run name {run!r}: give up to {longest} of a-z, 0-9 and -, none of - at an end"
        )


def _demo_config() -> str:
    packaged = files("r2ec").joinpath("configs")
    folder = packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"
    return folder.joinpath("demo.toml").read_text(encoding="utf-8")


def _of_part(part: str, rendered: list[Manifest] | None) -> list[Manifest]:
    """The objects of one file of k8s/base, or those of its names among the rendered ones."""
    ours = load_manifests(f"{part}.yaml")
    if rendered is None:
        return ours
    names = {item["metadata"]["name"] for item in ours}
    found = [copy.deepcopy(item) for item in rendered if item["metadata"].get("name") in names]
    found = [item for item in found if item["kind"] not in ("ConfigMap", "ServiceAccount")]
    if not any(pod_templates(item) for item in found):
        raise UsageError(f"no Job {' or '.join(sorted(names))} among the objects given by --from")
    return found


def _put_in_namespace(manifest: Manifest, namespace: str) -> None:
    if manifest["kind"] == "Namespace":
        manifest["metadata"]["name"] = namespace
    elif manifest["kind"] != "PriorityClass":
        manifest["metadata"]["namespace"] = namespace
    for subject in manifest.get("subjects", []):
        subject["namespace"] = namespace


def _set_job(manifest: Manifest, kind: str, settings: RunSettings) -> Manifest | None:
    """Put the settings into a Job or CronJob; returns the ConfigMap it needs besides, if any."""
    is_nightly = manifest["kind"] == "CronJob"
    spec = manifest["spec"]["jobTemplate"]["spec"] if is_nightly else manifest["spec"]
    component = manifest["metadata"]["labels"]["app.kubernetes.io/component"]
    environment = dict(settings.environment)
    if settings.size is not None and (kind != "nightly" or component == "score"):
        environment |= _set_size(spec, component, settings.size)
    if settings.processes is not None:
        if kind != "train" or settings.processes < 1:
            raise UsageError(f"{settings.processes} processes: only train takes them, from 1")
        environment["PROCESSES"] = str(settings.processes)
    template = spec["template"]
    set_pod(spec, settings.pod)
    if settings.pod.queue is not None:
        set_queue(manifest, settings.pod.queue)
    pod = template["spec"]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        _set_environment(container, environment)
    pod["containers"][0]["command"] += settings.arguments
    if settings.config_file is None:
        return None
    if kind != "train":
        raise UsageError(f"{settings.config_file}: only train takes a config")
    return _set_config(manifest, template, settings.config_file)


def _set_size(spec: Manifest, component: str, size: int) -> dict[str, str]:
    name = {"score": "SHARDS", "train": "NODES"}.get(component)
    if name is None or size < 1:
        raise UsageError(f"size {size}: score takes shards, train takes nodes, from 1")
    spec["completions"] = spec["parallelism"] = size
    if component == "score":
        spec["maxFailedIndexes"] = size - 1
    return {name: str(size)}


def _set_environment(container: Manifest, environment: Mapping[str, str]) -> None:
    # The kubelet fills in $(R2EC_DATE); what stands in env wins over envFrom.
    given = [{"name": name, "value": value} for name, value in environment.items()]
    kept = [entry for entry in container.get("env", []) if entry["name"] not in environment]
    container["env"] = [*given, *kept]


def _set_config(job: Manifest, template: Manifest, file: Path) -> Manifest:
    """A ConfigMap with a training config for the Job, and its hash in the pods' template.

    With other bytes it is another template: the server then refuses to change a Job that runs.
    """
    name, text = f"{job['metadata']['name']}-config", file.read_text(encoding="utf-8")
    command = template["spec"]["containers"][0]["command"]
    (place,) = (i for i, word in enumerate(command) if word.startswith("--config="))
    command[place] = f"--config={_CONFIG_FOLDER}/{file.name}"
    for volume in template["spec"]["volumes"]:
        if volume["name"] == "configs":
            volume["configMap"]["name"] = name
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    template["metadata"].setdefault("annotations", {})[CONFIG_HASH] = digest
    return _config_map(name, {file.name: text}, job["metadata"]["labels"])


def _config_map(name: str, data: dict[str, str], labels: Mapping[str, str]) -> Manifest:
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
