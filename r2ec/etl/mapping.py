"""Column mappings from a small TOML file: sections `[interactions]` and `[items]`."""

import tomllib
from dataclasses import fields
from importlib import resources
from pathlib import Path

from r2ec.errors import NotReadyError, UsageError
from r2ec.etl.inputs import TIME_UNITS, InteractionInput, ItemInput

SECTIONS = {"interactions": InteractionInput, "items": ItemInput}
_NOT_MAPPED = {"paths", "named"}


def load_mapping(name: str | None) -> dict[str, dict[str, str]]:
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
    for section in mapping:
        if section not in SECTIONS:
            raise UsageError(
                f"mapping {name}: unknown section [{section}]; known: {_names(SECTIONS)}"
            )
        _check_section(name, section, mapping[section])
    return {section: mapping.get(section, {}) for section in SECTIONS}


def _check_section(name: str, section: str, settings: dict[str, object]) -> None:
    known = {field.name for field in fields(SECTIONS[section])} - _NOT_MAPPED
    for setting, value in settings.items():
        if setting not in known:
            raise UsageError(
                f"mapping {name}, [{section}]: unknown setting {setting!r}; known: {_names(known)}"
            )
        if not isinstance(value, str) or not value:
            raise UsageError(f"mapping {name}, [{section}]: {setting} = {value!r} is not a text")
        if setting == "time_unit" and value not in TIME_UNITS:
            raise UsageError(
                f"mapping {name}: time_unit = {value!r}; give one of {_names(TIME_UNITS)}"
            )


def _read(name: str) -> str:
    path = Path(name)
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for folder in _ready_folders():
        ready = folder / f"{name}.toml"
        if ready.is_file():
            return ready.read_text(encoding="utf-8")
    raise NotReadyError(
        f"mapping {name!r}: no such file, and no ready mapping of that name "
        "(there are: amazon2023, movielens); give the path of a TOML file"
    )


def _ready_folders() -> list[resources.abc.Traversable]:
    package = resources.files("r2ec")
    repository = Path(__file__).resolve().parents[2]
    return [package / "configs" / "mappings", repository / "configs" / "mappings"]


def _names(names: object) -> str:
    return ", ".join(sorted(names))  # type: ignore[call-overload]
