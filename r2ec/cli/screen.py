"""What commands write for people to read: tables and pages, with every text shown as it is.

Catalog and reasoning text is data: it can neither colour the terminal nor move its cursor.
"""

import unicodedata
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

import pyarrow as pa

from r2ec.cli.plain_value import span

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Kinds of characters that act on a terminal rather than show: control, format (direction
# overrides, joiners), surrogates, private use, unassigned. An emoji's joiner may stay.
_ACTING = ("Cc", "Cf", "Cs", "Co", "Cn")
_HARMLESS = frozenset("\u200d\ufe0f")
MOST_ROWS = 200
ENOUGH_CHARACTERS = 12
COLUMN_GAP = 3
UNLIMITED_WIDTH = 10_000


def printable(text: str) -> str:
    """The text on one line, with every character that would act on a terminal made visible."""
    shown = (
        character
        if character in _HARMLESS or unicodedata.category(character) not in _ACTING
        else (" " if character in "\n\r\t" else f"\\x{ord(character):02x}")
        for character in text
    )
    return " ".join("".join(shown).split())


def console(*, stderr: bool = False, file: TextIO | None = None) -> "Console":
    """A console that takes no markup from the text it is given; on stdout where no file is."""
    from rich.console import Console

    return Console(stderr=stderr, file=file, markup=False, highlight=False, emoji=False)


def cell(value: Any) -> str:
    """One value as a person reads it; what is missing is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, pa.MonthDayNano):
        return span(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(cell(part) for part in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{cell(key)}: {cell(part)}" for key, part in value.items()) + "}"
    return printable(str(value))


def table_of(rows: pa.Table) -> "Table":
    """The first rows as a table, numbers to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for field in rows.schema:
        kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
        justify: Literal["left", "right"] = "left"
        if any(is_kind(field.type) for is_kind in kinds):
            justify = "right"
        # A name may be a text of the shop too: PIVOT makes columns of values.
        table.add_column(Text(printable(field.name)), justify=justify, overflow="fold")
    for row in rows.slice(0, MOST_ROWS).to_pylist():
        table.add_row(*(Text(cell(value)) for value in row.values()))
    return table


def is_narrow_enough(rows: pa.Table, width: int) -> bool:
    """Whether a table of the rows stays readable at `width` characters.

    Each column needs its name, and what it holds up to twelve characters.
    """
    needed = 0
    shown = rows.slice(0, MOST_ROWS)
    for name, column in zip(rows.schema.names, shown.columns, strict=True):
        longest = max((len(cell(value)) for value in column.to_pylist()), default=0)
        needed += max(len(name), min(longest, ENOUGH_CHARACTERS)) + COLUMN_GAP
    return needed - COLUMN_GAP <= width


def write_table(rows: pa.Table, file: TextIO | None = None) -> None:
    """Print the rows as a table, or one value a line where a table would be too wide.

    Says so when there are more rows than are shown.
    """
    screen = console(file=file)
    if not screen.is_terminal:
        screen.width = UNLIMITED_WIDTH
    if is_narrow_enough(rows, screen.width):
        screen.print(table_of(rows))
    else:
        _print_records(screen, rows)
    if rows.num_rows > MOST_ROWS:
        screen.print(
            f"{MOST_ROWS} of {rows.num_rows:,} rows; --format csv, json or parquet writes all"
        )
    elif rows.num_rows == 0:
        screen.print("no rows")


def _print_records(screen: "Console", rows: pa.Table) -> None:
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    for number, row in enumerate(rows.slice(0, MOST_ROWS).to_pylist(), start=1):
        screen.print(Rule(Text(f"row {number}"), align="left", style="dim"))
        values = Table.grid(padding=(0, 2))
        for name, value in row.items():
            values.add_row(Text(printable(name), style="dim"), Text(cell(value), overflow="fold"))
        screen.print(values)
