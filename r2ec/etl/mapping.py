"""Column mappings from a small TOML file: sections `[interactions]` and `[items]`."""

import tomllib
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

from r2ec.errors import NotReadyError, UsageError
from r2ec.etl.inputs import FORMATS, TIME_UNITS, InteractionInput, ItemInput

SECTIONS: dict[str, type[InteractionInput] | type[ItemInput]] = {
    "interactions": InteractionInput,
    "items": ItemInput,
}
READY = ("amazon2018", "amazon2023", "events", "movielens", "movielens1m", "transactions")
NOT_MAPPED = {"paths", "table", "named", "skip_broken_files", "max_time"}
_LISTS = {"column_names", "keep_values"}
_FLAGS = {"multi_line"}
_NUMBERS = {"min_rating", "max_rating"}


def load_mapping(name: str | None) -> dict[str, dict[str, Any]]:
    """Read a mapping by path, or a ready one by name (`amazon2023`, `movielens`).

    Returns section -> setting -> value, empty sections without a name. Raises NotReadyError when
    there is no such file and UsageError for a section or setting that does not exist.
    """
    if name is None:
        return {section: {} for section in SECTIONS}
    text = _read(name)
    try:
        mapping = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"mapping {name}: no valid TOML: {error}") from error
    for section, settings in mapping.items():
        if section not in SECTIONS or not isinstance(settings, dict):
            raise UsageError(
                f"mapping {name}: unknown section [{section}]; known: {_names(SECTIONS)}"
            )
    return {section: _section(name, section, mapping.get(section, {})) for section in SECTIONS}


def _section(name: str, section: str, settings: dict[str, object]) -> dict[str, Any]:
    known = {field.name for field in fields(SECTIONS[section])} - NOT_MAPPED
    checked = {}
    for setting, value in settings.items():
        if setting not in known:
            raise UsageError(
                f"mapping {name}, [{section}]: unknown setting {setting!r}; known: {_names(known)}"
            )
        wrong = f"mapping {name}, [{section}]: {setting} = {value!r} is not "
        checked[setting] = _value(setting, value, wrong)
    return checked


def _value(setting: str, value: object, wrong: str) -> object:
    """The value as the dataclasses hold it; UsageError, beginning with `wrong`, for another."""
    is_list = isinstance(value, list) and value and all(_is_text(part) for part in value)
    if setting in _LISTS or (is_list and setting.endswith(("_column", "order_by"))):
        if not is_list:
            raise UsageError(f"{wrong}a list of texts")
        return tuple(value)  # type: ignore[arg-type]
    if setting in _FLAGS:
        if not isinstance(value, bool):
            raise UsageError(f"{wrong}true or false")
        return value
    if setting in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{wrong}a number")
        return float(value)
    if not _is_text(value):
        raise UsageError(f"{wrong}a text")
    if setting == "time_unit" and value not in TIME_UNITS:
        raise UsageError(f"{wrong}a unit of time; give one of {_names(TIME_UNITS)}")
    if setting == "format" and value not in FORMATS:
        raise UsageError(f"{wrong}a format; give one of {_names(FORMATS)}")
    return value


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _read(name: str) -> str:
    path = Path(name)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"mapping {name}: not UTF-8: {error.reason}; convert it") from error
    for folder in _ready_folders():
        ready = folder / f"{name}.toml"
        if ready.is_file():
            return ready.read_text(encoding="utf-8")
    raise NotReadyError(
        f"mapping {name!r}: no such file, and no ready mapping of that name "
        f"(there are: {', '.join(READY)}); give the path of a TOML file"
    )


def _ready_folders() -> list[resources.abc.Traversable]:
    package = resources.files("r2ec")
    repository = Path(__file__).resolve().parents[2]
    return [package / "configs" / "mappings", repository / "configs" / "mappings"]


def _names(names: object) -> str:
    return ", ".join(sorted(names))  # type: ignore[call-overload]
