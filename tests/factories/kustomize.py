"""What `kubectl kustomize` makes of a folder."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


def kustomize(folder: str | Path) -> list[dict[str, Any]]:
    """The objects that a kustomization renders to; skips the test where there is no kubectl."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on the path")
    done = subprocess.run(
        ["kubectl", "kustomize", str(REPOSITORY / folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))
