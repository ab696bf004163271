"""Strict checks of custom resources by the models that their projects publish."""

from typing import Any


def strictly_valid_custom(manifest: dict[str, Any]) -> None:
    """Raises ValueError for a field that the kind lacks, or a value of another type.

    The models ignore fields that they do not know: what comes back must be what went in.
    """
    model = _models()[manifest["kind"]]
    known = model.from_dict(manifest).to_dict()
    _compare(manifest, known, manifest["kind"])


def _models() -> dict[str, Any]:
    from kubeflow_spark_api.models import SparkV1beta2SparkApplication
    from kubeflow_trainer_api.models import JobsetV1alpha2JobSet, TrainerV1alpha1TrainJob

    return {
        "JobSet": JobsetV1alpha2JobSet,
        "TrainJob": TrainerV1alpha1TrainJob,
        "SparkApplication": SparkV1beta2SparkApplication,
    }


def _compare(given: Any, known: Any, place: str) -> None:
    if isinstance(given, dict):
        missing = set(given) - set(known if isinstance(known, dict) else {})
        if missing:
            raise ValueError(f"{place} has no field {', '.join(sorted(missing))}")
        for key, value in given.items():
            _compare(value, known[key], f"{place}.{key}")
    elif isinstance(given, list):
        if not isinstance(known, list) or len(given) != len(known):
            raise ValueError(f"{place} is no such list")
        for number, (one, other) in enumerate(zip(given, known, strict=True)):
            _compare(one, other, f"{place}.{number}")
    elif given != known and given not in ("", None):
        raise ValueError(f"{place}: {given!r} is taken for {known!r}")
