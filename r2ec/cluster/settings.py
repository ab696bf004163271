"""`--set KEY=VALUE` of `r2ec-cli k8s`: what the pods of a run get."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from r2ec.config import TrainConfig
from r2ec.errors import UsageError

CONFIG_HASH = "r2ec/config-sha256"
TRAINING_SECTIONS = frozenset(TrainConfig.model_fields) - {"paths"}

_QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|Ki|Mi|Gi|Ti|M|G|T)?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_KEYS = {
    "cpu": "request of each pod, such as 4 or 500m",
    "memory": "request and limit of each pod, such as 32Gi",
    "gpu": "GPUs of each pod",
    "queue": "Kueue's LocalQueue; the Job then starts suspended",
    "priority": "PriorityClass of the pods",
    "deadline": "seconds after which the Job is ended",
    "retries": "failures of an index, or of the pod, before it is given up",
    "secret": "Secret with the object store's keys",
    "env.NAME": "a variable of the container",
    "SECTION.NAME": "a setting of training, such as recpo.steps=10",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PodSettings:
    """Quantities are texts, as Kubernetes wants them; None leaves what the file says."""

    image: str | None = None
    cpu: str | None = None
    memory: str | None = None
    gpu: str | None = None
    queue: str | None = None
    priority: str | None = None
    deadline: int | None = None
    retries: int | None = None
    secret: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


def parse_settings(
    pairs: Iterable[str], *, image: str | None = None
) -> tuple[PodSettings, tuple[str, ...]]:
    """The settings of `KEY=VALUE` texts, and those that training itself takes, as `--set=…`.

    Raises `UsageError` for a key that is none, or a value that can't be meant.
    """
    given: dict[str, Any] = {"environment": {}}
    training = []
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not value:
            raise UsageError(f"--set {pair!r}: give KEY=VALUE; keys are {_keys()}")
        _check_value(pair, key, value)
        if key.startswith("env."):
            given["environment"][key.removeprefix("env.")] = value
        elif key.split(".")[0] in TRAINING_SECTIONS:
            training.append(f"--set={pair}")
        elif key in ("deadline", "retries"):
            given[key] = int(value)
        elif key in _KEYS:
            given[key] = value
        else:
            raise UsageError(f"--set {pair!r}: no such key; there are {_keys()}")
    if image is not None and not re.fullmatch(r"\S+", image):
        raise UsageError(f"--image {image!r}: give an image such as registry.example.com/r2ec:1.0")
    return PodSettings(image=image, **given), tuple(training)


def _check_value(pair: str, key: str, value: str) -> None:
    """Raise `UsageError` for what a cluster would refuse, or take for something else."""
    if key in ("cpu", "memory") and not _QUANTITY.fullmatch(value):
        raise UsageError(f"--set {pair!r}: {value!r} is no quantity such as 4, 500m, 16Gi")
    if key in ("gpu", "deadline", "retries") and not re.fullmatch("[0-9]+", value):
        raise UsageError(f"--set {pair!r}: give a whole number")
    if key in ("queue", "priority", "secret") and not _NAME.fullmatch(value):
        raise UsageError(f"--set {pair!r}: {value!r} is no name of a cluster's: a-z, 0-9 and -")


def set_pod(spec: dict[str, Any], settings: PodSettings) -> None:
    """Put the settings into a Job's spec, in place."""
    pod = spec["template"]["spec"]
    (main, *_), firsts = pod["containers"], pod.get("initContainers", [])
    for container in [*firsts, main]:
        if settings.image is not None:
            container["image"] = settings.image
        if settings.secret is not None:
            for source in container.get("envFrom", []):
                if "secretRef" in source:
                    source["secretRef"] = {"name": settings.secret}
        kept = [
            entry for entry in container.get("env", []) if entry["name"] not in settings.environment
        ]
        given = [{"name": name, "value": value} for name, value in settings.environment.items()]
        container["env"] = [*given, *kept]
    _set_resources(main["resources"], settings)
    if settings.priority is not None:
        pod["priorityClassName"] = settings.priority
    if settings.deadline is not None:
        spec["activeDeadlineSeconds"] = settings.deadline
    if settings.retries is not None:
        name = "backoffLimitPerIndex" if "backoffLimitPerIndex" in spec else "backoffLimit"
        spec[name] = settings.retries


def set_queue(manifest: dict[str, Any], queue: str) -> None:
    """Hand a Job or CronJob to Kueue: its label, and suspended until it is admitted."""
    is_cron = manifest["kind"] == "CronJob"
    owner = manifest["spec"]["jobTemplate"] if is_cron else manifest
    owner["metadata"].setdefault("labels", {})["kueue.x-k8s.io/queue-name"] = queue
    owner["spec"]["suspend"] = True


def _set_resources(resources: dict[str, Any], settings: PodSettings) -> None:
    if settings.cpu is not None:
        resources["requests"]["cpu"] = settings.cpu
    if settings.memory is not None:
        resources["requests"]["memory"] = resources["limits"]["memory"] = settings.memory
    if settings.gpu is not None:
        resources["limits"]["nvidia.com/gpu"] = settings.gpu


def _keys() -> str:
    return "; ".join(f"{key} ({meaning})" for key, meaning in _KEYS.items())
