"""The SQL files of the project: where they are, what their heads say, how parameters are bound.

They lie in `sql/` of the repository, and as `r2ec/sql` in an installed package or the zip that
spark-submit takes. They are written in Spark SQL, with parameters as `:name`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from r2ec.errors import UsageError

FOLDERS = ("queries", "audits", "audits/strict_time", "views")

_HEAD_LINE = re.compile(r"--\s*(grain|reads|params):\s*(.*)")
# What a colon may stand in without being a parameter comes first.
_TOKEN = re.compile(
    r"""(?P<skip>--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|::)"""
    r"|:(?P<name>[A-Za-z_][A-Za-z0-9_]*)",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SqlFile:
    """One SQL file: its text and what its head declares.

    `params` maps a parameter to its default, or to None where a value must be given.
    """

    name: str
    source: str
    grain: str
    reads: tuple[str, ...]
    params: Mapping[str, str | None]
    text: str

    def bind(self, values: Mapping[str, str]) -> dict[str, str]:
        """Values for all parameters of the file.

        Raises UsageError for a missing or unknown one, and for a date of the head that is no day.
        """
        used = set(parameter_names(self.text))
        known = {name: self.params.get(name) for name in used}
        unknown = sorted(set(values) - used)
        if unknown:
            has = ", ".join(sorted(used)) or "none"
            raise UsageError(f"{self.source}: no parameter {', '.join(unknown)}; it has: {has}")
        bound = {name: values.get(name, default) for name, default in known.items()}
        missing = sorted(name for name, value in bound.items() if value is None)
        if missing:
            remedy = " ".join(f"--param {name}=…" for name in missing)
            colon = "(a colon before a name makes a parameter; one that is none gets a space after)"
            raise UsageError(
                f"{self.source}: give a value for {', '.join(missing)}: {remedy} {colon}"
            )
        given = {name: value for name, value in bound.items() if value is not None}
        for name, value in given.items():
            if name in self.params and name.endswith("date") and not _is_day(value):
                raise UsageError(f"{self.source}: {name}={value!r} is not a day such as 2024-05-31")
        return given


def sql_folder() -> Traversable:
    """The folder that holds `queries/`, `views/`, `audits/` and `schema/`."""
    packaged = files("r2ec").joinpath("sql")
    if packaged.is_dir():
        return packaged
    return Path(__file__).resolve().parent.parent / "sql"


def read_folder(folder: str) -> list[SqlFile]:
    """Every SQL file of `sql/<folder>`, by name; not those of folders below it."""
    entries = (entry for entry in sql_folder().joinpath(folder).iterdir() if entry.is_file())
    return [
        parse_sql(entry.name.removesuffix(".sql"), f"sql/{folder}/{entry.name}", entry.read_text())
        for entry in sorted(entries, key=lambda entry: entry.name)
        if entry.name.endswith(".sql")
    ]


def find_sql(path_or_name: str) -> SqlFile:
    """The SQL file at a path, or the project's own query, audit or view of that name.

    Raises UsageError when there is neither.
    """
    path = Path(path_or_name)
    if path.is_file():
        try:
            return parse_sql(path.stem, str(path), path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: no SQL text in UTF-8: {error}") from error
    own = [file for folder in FOLDERS for file in read_folder(folder)]
    for file in own:
        if file.name == path_or_name:
            return file
    names = ", ".join(file.name for file in own)
    raise UsageError(f"{path_or_name}: no such file, and no query of that name; there are: {names}")


def parse_sql(name: str, source: str, text: str) -> SqlFile:
    """Read the head of a SQL text; what it does not declare is empty."""
    matches = (_HEAD_LINE.match(line) for line in text.splitlines())
    head = {match[1]: match[2] for match in matches if match}
    params: dict[str, str | None] = {}
    for entry in _listed(head.get("params", "")):
        param, has_default, default = entry.partition("=")
        params[param.strip()] = default.strip() if has_default else None
    return SqlFile(
        name=name,
        source=source,
        grain=head.get("grain", ""),
        reads=tuple(_listed(head.get("reads", ""))),
        params=params,
        text=text,
    )


def parameter_names(text: str) -> list[str]:
    """Names of the `:name` parameters, in order of first use; strings and comments aside."""
    names = (match["name"] for match in _TOKEN.finditer(text) if match["name"])
    return list(dict.fromkeys(names))


def to_duckdb(text: str) -> str:
    """The same SQL with its parameters written as DuckDB does, `$name`."""
    return _TOKEN.sub(lambda match: f"${match['name']}" if match["name"] else match[0], text)


def to_temporary_view(text: str) -> str:
    """The same `CREATE VIEW`, of a view that lives as long as the session."""
    return re.sub(
        r"(?m)^CREATE OR REPLACE VIEW\b", "CREATE OR REPLACE TEMPORARY VIEW", text, count=1
    )


def statements(text: str) -> list[str]:
    """The statements of a text without their closing semicolons; comments stay with them."""
    parts, begin = [], 0
    for position in _semicolons(text):
        parts.append(text[begin:position])
        begin = position + 1
    parts.append(text[begin:])
    return [part for part in parts if _without_comments(part).strip()]


def _semicolons(text: str) -> Iterator[int]:
    covered = [match.span() for match in _TOKEN.finditer(text)]
    for match in re.finditer(";", text):
        if not any(first <= match.start() < last for first, last in covered):
            yield match.start()


def _without_comments(text: str) -> str:
    return _TOKEN.sub(lambda m: "" if m[0].startswith(("--", "/*")) else m[0], text)


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _listed(text: str) -> Iterator[str]:
    for entry in text.split(","):
        if entry.strip() not in ("", "none", "nothing"):
            yield entry.strip()
