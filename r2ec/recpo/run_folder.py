"""The folder of a run: the configuration and the data it was started with, and what a resume may
change.

What decides the weights is as it was, or the run is another one. What only says how much is done
at once, how often something is kept or told, or how far a step goes from here on, may be changed:
that is how a run goes on that ran out of memory, or whose loss was not finite.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from r2ec.config import TrainConfig
from r2ec.errors import UsageError
from r2ec.lock import FOLDER_LOCKS
from r2ec.logs import get_logger
from r2ec.recpo.workplace import Data
from r2ec.tables import Example

_LOG = get_logger(__name__)
CONFIG, DATA, FINISHED = "config.json", "data.json", "finished.json"
# Settings of a stage have no effect on one that is over; `engine` and the rest are of both.
RESUMABLE = frozenset(
    {
        "contrastive.lr",
        "contrastive.micro_batch_users",
        "recpo.lr",
        "recpo.micro_batch_rows",
        "recpo.sampling.batch_rows",
        "recpo.log_reasonings_every",
        "engine.gradient_clipping",
        "engine.gradient_checkpointing",
        "engine.timeout_seconds",
        "checkpoint.every_steps",
        "checkpoint.keep",
        "evaluation.batch_rows",
        "evaluation.at_end",
    }
)
Figures = dict[str, dict[str, float]]


def prepare_run_dir(config: TrainConfig, run_dir: Path, *, resume: bool, fresh: bool) -> None:
    """Make the run folder and keep the resolved configuration in it.

    Raises `UsageError` where a run is there and neither `resume` nor `fresh` was asked for, or the
    configuration of the run to be resumed differs in more than `RESUMABLE`.
    """
    resolved = json.loads(config.model_dump_json())
    file = run_dir / CONFIG
    if file.exists() and not fresh:
        if not resume:
            raise UsageError(
                f"{run_dir} holds a run already: go on with --resume, or start anew with --fresh"
            )
        _check_changes(_differences(_read_config(file), resolved), run_dir)
        write_json(file, resolved)
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    for path in run_dir.iterdir() if fresh else ():
        if path.name == FOLDER_LOCKS:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    write_json(file, resolved)


def check_data(data: Data, run_dir: Path) -> None:
    """Keep what the run was started on; raises `UsageError` where a resume finds other data."""
    now = {
        "catalog": {"items": data.catalog.num_items, "digest": data.catalog.text_fingerprint()},
        "train": {"sequences": len(data.train), "digest": _digest(data.train)},
        "valid": {"sequences": len(data.valid), "digest": _digest(data.valid)},
    }
    file = run_dir / DATA
    if not file.exists():
        write_json(file, now)
        return
    changed = _differences(read_json(file), now)
    if changed:
        told = "; ".join(f"{key} was {before!r}, now {after!r}" for key, before, after in changed)
        raise UsageError(
            f"{run_dir} was started on other data: {told}. Start anew with --fresh, or give another"
            " --output"
        )


def read_finished(run_dir: Path) -> Figures:
    """The figures of the stages that are over."""
    file = run_dir / FINISHED
    figures: Figures = read_json(file) if file.exists() else {}
    return figures


def write_json(file: Path, value: Any) -> None:
    """Write in one act: aside, then renamed."""
    staging = file.with_suffix(".writing")
    staging.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    staging.replace(file)


def read_json(file: Path) -> Any:
    """What `write_json` wrote. Raises `UsageError` where somebody has changed it since."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is damaged ({error}); start anew with --fresh") from error


def _check_changes(changed: list[tuple[str, Any, Any]], run_dir: Path) -> None:
    finished = read_finished(run_dir)
    refused = [
        f"{key} was {before!r}, now {after!r}"
        for key, before, after in changed
        if key not in RESUMABLE or key.split(".")[0] in finished
    ]
    if refused:
        raise UsageError(
            f"{run_dir} was started with another configuration: {'; '.join(refused)}. Resume with"
            " the same one, or start anew with --fresh"
        )
    for key, before, after in changed:
        _LOG.warning("%s: goes on with %s = %r, was %r", run_dir, key, after, before)


def _read_config(file: Path) -> Any:
    """The configuration a run was started with; settings that its version did not know have their
    defaults."""
    stored = read_json(file)
    try:
        return json.loads(TrainConfig.model_validate(stored).model_dump_json())
    except ValidationError:
        return stored


def _differences(before: Any, now: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted names whose values differ, with both."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [
            line
            for key in keys
            for line in _differences(before.get(key), now.get(key), f"{path}.{key}".strip("."))
        ]
    return [] if before == now else [(path, before, now)]


def _digest(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        history = example.history
        row = (example.sequence_id, example.target_index, history.item_index, history.time)
        digest.update(repr((*row, history.rating, history.now)).encode())
    return digest.hexdigest()[:16]
