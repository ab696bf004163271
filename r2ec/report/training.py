"""A training's curves, from the JSON lines that it wrote beside its checkpoints."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2ec.errors import NotReadyError, UsageError

JOURNAL = "metrics.jsonl"
CARD = "r2ec.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What a training told, step by step.

    `curves` maps (stage, figure) to its points (step, value), steps ascending.
    """

    folder: str
    curves: dict[tuple[str, str], list[tuple[float, float]]]
    card: dict[str, Any]


def load_training(folder: Path, card: dict[str, Any]) -> Training:
    """Read a training's folder. Raises `NotReadyError` when it has no journal, or a broken one."""
    file = folder / JOURNAL
    if not file.is_file():
        raise NotReadyError(
            f"{file} is not there: --training names the folder that r2ec-cli train wrote its"
            " curves to, by default that of the model with .run after its name"
        )
    curves: dict[tuple[str, str], dict[float, float]] = {}
    for number, text in enumerate(file.read_text("utf-8").splitlines(keepends=True), start=1):
        if not text.endswith("\n"):
            continue  # a training that is at work, or was killed, has not ended its line
        try:
            line = json.loads(text)
            stage, step = str(line["stage"]), float(line["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise NotReadyError(
                f"{file}, line {number} is no step of a training: {error}"
            ) from error
        for name, value in line.items():
            if name not in ("stage", "step") and isinstance(value, int | float):
                curves.setdefault((stage, name), {})[step] = float(value)
    return Training(
        folder=str(folder),
        curves={key: sorted(points.items()) for key, points in curves.items()},
        card=card,
    )


def find_training(model_dir: str | None, run_dir: str | None, model: str) -> Training | None:
    """The training of the model that scored a date, None where nobody said where it is.

    `model` is the fingerprint that the run of the date names. Raises `UsageError` for a directory
    of another model, `NotReadyError` for a folder without what was asked for.
    """
    card: dict[str, Any] = {}
    if model_dir is not None:
        card = _read_card(Path(model_dir))
        if card.get("fingerprint") != model:
            raise UsageError(
                f"--model {model_dir} is model {card.get('fingerprint')}, but the date was scored"
                f" with model {model}: give the directory of that one"
            )
    if run_dir is not None:
        return load_training(Path(run_dir), card)
    if model_dir is None:
        return None
    folder = Path(f"{model_dir.rstrip('/')}.run")
    if not (folder / JOURNAL).is_file():
        return None
    return load_training(folder, card)


def _read_card(folder: Path) -> dict[str, Any]:
    file = folder / CARD
    try:
        card = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise NotReadyError(
            f"{file} is not there: --model names a directory that r2ec-cli train wrote"
        ) from None
    except ValueError as error:
        raise NotReadyError(f"{file} is damaged: {error}") from error
    if not isinstance(card, dict):
        raise NotReadyError(f"{file} is damaged: it holds no object")
    return card
