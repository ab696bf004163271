"""The table of `r2ec-cli k8s status`, once or again and again."""

import sys
import time
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from r2ec.logs import format_seconds

if TYPE_CHECKING:
    from r2ec.cluster.jobs import Cluster
    from r2ec.cluster.status import RunStatus


def print_statuses(rows: list["RunStatus"], console: Console | None = None) -> None:
    """One line a Job: indexes done, running and failed with exit code and reason."""
    # Cells are data of the cluster, never markup; a log or a pipe has no width of its own.
    console = console or Console(
        width=None if sys.stdout.isatty() else 300, markup=False, highlight=False
    )
    table = Table(
        "run", "job", "state", "done", "running", "failed", "restarts", "age", "message", box=None
    )
    for row in rows:
        table.add_row(
            row.run or "-",
            row.kind,
            row.state,
            f"{row.succeeded}/{row.wanted}",
            str(row.active),
            _failed(row),
            str(row.restarts),
            format_seconds(row.age_seconds),
            row.message,
        )
    console.print(table)


def status_line(row: "RunStatus") -> str:
    """One line of progress: what `wait` says when something changed."""
    failed = _failed(row)
    parts = [
        f"{row.name}: {row.state}",
        f"{row.succeeded}/{row.wanted} done",
        f"failed {failed}" if failed != "-" else "",
        row.message,
    ]
    return ", ".join(part for part in parts if part)


def watch_statuses(cluster: "Cluster", run: str | None, interval: float) -> None:
    """Print the table whenever it changes, until every Job has ended."""
    from r2ec.cluster.runs import patient, statuses

    shown: object = None
    while True:
        rows = patient(lambda: statuses(cluster, run))
        key = [(row.name, status_line(row), row.active, row.restarts) for row in rows]
        if key != shown:
            if shown is not None and sys.stdout.isatty():
                click.clear()
            print_statuses(rows)
            sys.stdout.flush()
            shown = key
        if all(row.state in ("Complete", "Failed") for row in rows):
            return
        time.sleep(interval)


def _failed(row: "RunStatus") -> str:
    """`3: exit 4, 5: exit 137 (OOMKilled)`; the first few, then how many more there are."""
    shown = [str(failure) for failure in row.failures[:6]]
    if len(row.failures) > len(shown):
        shown.append(f"… {len(row.failures) - len(shown)} more")
    return ", ".join(shown) or (row.indexes_failed or "-")
