"""The schemas of Kubernetes, version by version, as kubernetes-validate has them."""

import functools
from typing import Any

import kubernetes_validate.utils

VERSIONS = ("1.30", "1.32", "1.34", "1.36")

# Megabytes of definitions for each call: read once for each file and version.
kubernetes_validate.utils.schema_contents = functools.cache(
    kubernetes_validate.utils.schema_contents
)


def strictly_valid(manifest: dict[str, Any], version: str) -> None:
    """Raises `kubernetes_validate.ValidationError`, also for a field that the kind lacks."""
    kubernetes_validate.validate(manifest, version, strict=True)
