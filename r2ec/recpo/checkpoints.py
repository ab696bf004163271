"""Checkpoints on disk: a folder a step, whole only with its manifest, which names every byte.

One is written aside and renamed, so what a killed process leaves bears another name. What lies
there is judged by reading it: a file may have been cut or changed since.
"""

import glob
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from r2ec.logs import get_logger

_LOG = get_logger(__name__)
MANIFEST = "complete.json"
_UNFINISHED = "_"


def staging_of(folder: Path) -> Path:
    """Where a checkpoint is written before it bears its name."""
    return folder.with_name(f"{_UNFINISHED}{folder.name}")


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint of a stage whose every byte is as it was written.

    A broken one is passed over with a warning, one that was not written to its end is removed with
    one.
    """
    for rest in sorted(folder.glob(f"{_UNFINISHED}step-*")):
        _LOG.warning("%s was not written to its end: passed over and removed", rest)
        shutil.rmtree(rest)
    return next((path for path in reversed(checkpoints(folder)) if _is_whole(path)), None)


def remove_older(newest: Path, keep: int) -> None:
    """Leave `keep` checkpoints up to `newest`.

    Those of later steps were broken, and passed over: they do not count.
    """
    until_now = [path for path in checkpoints(newest.parent) if path.name <= newest.name]
    for old in until_now[:-keep]:
        shutil.rmtree(old)


def settle_model(target: Path) -> None:
    """Clear away what a process killed while it saved a model at `target` has left beside it.

    Killed between two renames it leaves no model there, but the one before beside it.
    """
    name = glob.escape(target.name)
    for before in sorted(target.parent.glob(f"{name}.replaced-*")):
        if target.exists():
            shutil.rmtree(before)
        else:
            _LOG.warning("%s: a process was killed as it replaced it; taken back", target)
            before.rename(target)
    for rest in target.parent.glob(f"{name}.saving-*"):
        shutil.rmtree(rest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """State, number of processes and file digests of a checkpoint; `ValueError` if it is broken."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or manifest.keys() != {"state", "world_size", "files"}:
        raise ValueError(f"{MANIFEST} lacks its parts")
    return manifest


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder but the manifest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            with path.open("rb") as stream:
                found[str(path.relative_to(folder))] = hashlib.file_digest(
                    stream, "sha256"
                ).hexdigest()
    return found


def _is_whole(folder: Path) -> bool:
    try:
        before, now = read_manifest(folder)["files"], digests(folder)
    except (OSError, ValueError) as error:
        reason = str(error)
    else:
        changed = sorted(name for name in before if now.get(name) != before[name])
        if not changed:
            return True
        reason = f"missing or changed: {', '.join(changed)}"
    _LOG.warning("checkpoint %s is broken (%s); trying an older one", folder, reason)
    return False


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a stage, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{MANIFEST}"))
