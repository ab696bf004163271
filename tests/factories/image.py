"""k8s/Dockerfile, read step by step, and its install steps run in folders of their own."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "k8s/Dockerfile"
# What needs a machine of its own: packages of the system, its users.
OF_THE_SYSTEM = ("apt-get update && ", "groupadd ")


@dataclass(slots=True)
class Stage:
    """A stage: what it is built on, and its instructions as (word, rest of the line)."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def read_stages() -> dict[str, Stage]:
    """The stages of the Dockerfile, with its arguments filled in."""
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    current: Stage | None = None
    for line in DOCKERFILE.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        word, rest = line.split(maxsplit=1)
        rest = re.sub(r"\$\{(\w+)\}", lambda match: arguments.get(match[1], match[0]), rest)
        if word == "ARG":
            name, value = rest.split("=", 1)
            arguments[name] = value
        elif word == "FROM":
            base, _, name = rest.split()
            current = stages[name] = Stage(name, base)
        else:
            assert current is not None
            current.steps.append((word, rest))
    return stages


def build(stages: dict[str, Stage], name: str, root: Path, built: set[str] | None = None) -> None:
    """Run the steps of a stage, and of those it is built on or copies from, below `root`."""
    built = set() if built is None else built
    if name in built:
        return
    built.add(name)
    stage = stages[name]
    if stage.base in stages:
        build(stages, stage.base, root, built)
    for word, rest in stage.steps:
        if word == "COPY":
            *sources, target = [part for part in rest.split() if not part.startswith("--")]
            if "--from=" in rest:
                source = next(part for part in rest.split() if part.startswith("--from="))
                build(stages, source.removeprefix("--from="), root, built)
            else:
                for source in sources:
                    _copy(source, _below(root, target), into=len(sources) > 1)
        elif word == "RUN" and not rest.startswith(OF_THE_SYSTEM):
            _run(rest, root)


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path of the repository out; the last line that fits counts."""
    ignored = False
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            parts = path.split("/")
            if any(fnmatch.fnmatch(part, pattern) for part in parts[:1]) or (
                "**/" in line and any(fnmatch.fnmatch(part, pattern) for part in parts)
            ):
                ignored = not line.startswith("!")
    return ignored


def in_image(root: Path, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A command as a container of the image runs it: its PATH first, an empty HOME."""
    home = root / "tmp"
    home.mkdir(exist_ok=True)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PY", "R2EC"))}
    venv = root / "opt/venv"
    path = f"{venv / 'bin'}:{clean['PATH']}"
    return subprocess.run(
        command,
        env=clean | {"PATH": path, "HOME": str(home), "OMP_NUM_THREADS": "1"} | environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
    )


def _copy(source: str, target: Path, *, into: bool) -> None:
    assert not is_ignored(source), f".dockerignore keeps {source} out"
    place = REPOSITORY / source
    if place.is_dir():
        shutil.copytree(place, target, ignore=shutil.ignore_patterns("__pycache__"))
        return
    target = target / place.name if into else target
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(place, target)


def _run(command: str, root: Path) -> None:
    # Absolute paths of the image are folders below the root here.
    placed = re.sub(r"(?<![\w.])/(src|wheels|opt)\b", rf"{root}/\1", command)
    placed = re.sub(r"^python ", f"{sys.executable} ", placed)
    done = subprocess.run(
        ["bash", "-c", placed],
        cwd=root / "src",
        env=os.environ | {"PIP_NO_COMPILE": "1"},  # half of the time, for files read once
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{placed}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/") if path.startswith("/") else root / "src" / path
