"""A study as TOML: rows that differ in a few settings, seeds, and what they have in common."""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from r2ec.config import Section, load_train_config
from r2ec.errors import NotReadyError, UsageError

Baseline = Literal["popularity", "recent-popularity", "cooccurrence", "sasrec"]
SEEDED_BASELINES = ("sasrec",)


class RowConfig(Section):
    """One row of the table: a baseline, the untrained base model, or a training.

    `settings` are those of the training beside those that all rows share; `start` names an earlier
    row whose model of the same seed this one begins with. `budgets` evaluates the model once for
    each number of reasoning tokens, each in a line of its own.
    """

    name: str = Field(min_length=1)
    baseline: Baseline | None = None
    untrained: bool = False
    start: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    budgets: tuple[int, ...] = ()

    @model_validator(mode="after")
    def kinds_exclude_each_other(self) -> "RowConfig":
        """A row is of one kind, and holds nothing that its kind would not look at."""
        if self.baseline and (self.untrained or self.start or self.settings or self.budgets):
            raise ValueError(f"row {self.name!r}: a baseline takes no other setting")
        if self.untrained and (self.start or self.settings):
            raise ValueError(f"row {self.name!r}: an untrained model has no start and no settings")
        return self

    @property
    def trains(self) -> bool:
        """Whether this row runs `train`."""
        return self.baseline is None and not self.untrained


class StudyConfig(Section):
    """Everything a study needs; relative paths start at the working directory.

    Differences are taken against the first row.
    """

    title: str
    question: str
    config: str
    warehouse: str
    base_model: str
    seeds: tuple[int, ...] = (1, 2, 3)
    splits: tuple[Literal["valid", "test"], ...] = ("valid", "test")
    ks: tuple[int, ...] = (5, 10)
    picture: Literal["ndcg@10", "hit_rate@10"] = "ndcg@10"
    settings: dict[str, Any] = Field(default_factory=dict)
    rows: tuple[RowConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def rows_fit_together(self) -> "StudyConfig":
        """Names are unique, and a start is a trained row that stands before."""
        trained: list[str] = []
        names = [row.name for row in self.rows]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two rows are named {name!r}")
        for row in self.rows:
            if row.start is not None and row.start not in trained:
                raise ValueError(
                    f"row {row.name!r} starts from {row.start!r}: no training above it"
                )
            if row.trains:
                trained.append(row.name)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)}: one or more, each once")
        return self


def load_study(path: str) -> StudyConfig:
    """Read and check a study, the settings of its trainings included.

    Raises `UsageError` naming the file and the key, `NotReadyError` if a file is absent.
    """
    if not Path(path).is_file():
        raise NotReadyError(f"study {path} does not exist; see configs/studies/ for examples")
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        study = StudyConfig.model_validate(raw)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        lines = [
            f"  {'.'.join(str(part) for part in item['loc']) or 'study'}: {item['msg']}"
            for item in error.errors()
        ]
        raise UsageError(f"{path}: this study is wrong:\n" + "\n".join(lines)) from error
    for row in study.rows:
        if row.trains:
            load_train_config(study.config, overrides(study, row))
    return study


def overrides(study: StudyConfig, row: RowConfig) -> list[str]:
    """The settings of a row as `section.key=value` with TOML values."""
    return [f"{key}={_toml(value)}" for key, value in (study.settings | row.settings).items()]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
