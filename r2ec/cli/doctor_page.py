"""The findings of `doctor` on the terminal."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from r2ec.cli import screen
from r2ec.cli.checks import Check

if TYPE_CHECKING:
    from rich.table import Table

MARKS = {"ok": ("✓", "green"), "note": ("•", "yellow"), "missing": ("✗", "bold red")}
NAME_WIDTH = 10


def print_checks(checks: Iterable[Check]) -> list[str]:
    """Print each finding as it comes, with its remedy; returns the names of what is missing."""
    from rich.text import Text

    out = screen.console()
    group, missing = None, []
    for check in checks:
        if check.group != group:
            group = check.group
            out.print(Text(f"\n{group}", style="bold"))
        out.print(_line(check))
        if check.status == "missing":
            missing.append(f"{check.name} ({check.group})")
    out.print()
    return missing


def _line(check: Check) -> "Table":
    from rich.table import Table
    from rich.text import Text

    mark, colour = MARKS[check.status]
    grid = Table.grid(padding=(0, 1))
    for width in (3, NAME_WIDTH, None):
        grid.add_column(width=width, overflow="fold", justify="left")
    found = Text(screen.printable(check.found))
    grid.add_row(Text(f"  {mark}", style=colour), Text(check.name), found)
    if check.remedy:
        grid.add_row("", "", Text(f"→ {screen.printable(check.remedy)}", style=colour))
    return grid
