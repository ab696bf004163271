"""What a demo made, for people: metrics, tables, three users, what to ask next."""

import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import click

from r2ec.logs import format_seconds

MOST_COLUMNS, UNBROKEN = 80, "\u00a0"


def build_summary(
    folder: Path, date: str, stage_seconds: dict[str, float], seconds: float
) -> dict[str, Any]:
    """The figures of a demo: seconds by stage, metrics with intervals, counts."""
    from r2ec.storage import Warehouse
    from r2ec.warehouse_views import open_views

    with open_views(Warehouse(str(folder / "warehouse"))) as views:
        metrics = views.execute(
            "SELECT run_id, split, metric, value, ci_low, ci_high, users FROM metrics"
            " ORDER BY run_id, metric"
        ).fetchall()
        counts = {
            name: views.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0]
            for name in ("catalog", "sequences", "histories", "quarantine", "recommendations")
        }
        reasons = views.execute(
            "SELECT finish_reason, count(*) FROM reasoning GROUP BY 1 ORDER BY 2 DESC"
        ).fetchall()
        users = views.execute(
            "SELECT user_id FROM reasoning WHERE status = 'ok' ORDER BY hash(user_id) LIMIT 3"
        ).fetchall()
    names = ("run_id", "split", "metric", "value", "ci_low", "ci_high", "users")
    return {
        "date": date,
        "seconds": round(seconds, 1),
        "stage_seconds": stage_seconds,
        "rows": counts,
        "finish_reasons": dict(reasons),
        "metrics": [dict(zip(names, row, strict=True)) for row in metrics],
        "users_shown": [row[0] for row in users],
    }


def show_summary(summary: dict[str, Any], folder: Path, date: str) -> None:
    """The summary for people: metrics, tables, three users, what to ask next."""
    click.echo(f"\nDone in {format_seconds(summary['seconds'])}.\n")
    say(
        "How far up lists of ten the next purchase stands: test split, full catalog, 95 % "
        "intervals. N@10 is 1 for the first place and less further down, H@10 is 1 anywhere on "
        "the list.\n"
    )
    by_run = {(row["run_id"], row["metric"]): row for row in summary["metrics"]}
    for run in ("popularity", "untrained", "contrastive", "recpo"):
        cells = []
        for metric, name in (("ndcg@10", "N@10"), ("hit_rate@10", "H@10")):
            row = by_run[run, metric]
            cells.append(f"{name} {row['value']:.4f} [{row['ci_low']:.4f}, {row['ci_high']:.4f}]")
        say("   ".join(cell.replace(" ", UNBROKEN) for cell in cells), name=run)
    click.echo("")
    for name in ("rows", "finish_reasons"):
        counts = (f"{of}{UNBROKEN}{count:,}" for of, count in summary[name].items())
        say(", ".join(counts), name="ended by" if name == "finish_reasons" else name)
    for name in ("warehouse", "model", "logs", "report.html"):
        say(near(folder / name), name=name.split(".")[0])
    for user in summary["users_shown"]:
        click.echo("")
        at = ("--warehouse", folder / "warehouse", "--date", date, "--top-k", 5, user)
        subprocess.run([sys.executable, "-m", "r2ec", "show", *map(str, at)], check=True)
    click.echo("Ask the tables yourself:\n")
    click.echo(f"  export R2EC_WAREHOUSE={shlex.quote(near(folder / 'warehouse'))}")
    click.echo(f"  r2ec-cli sql catalog_coverage --param date={date}")


def say(text: str, *, name: str = "") -> None:
    """The text after a name, filled to the terminal's width and to 80 columns at most."""
    indent = f"  {name:<12} " if name else ""
    lines = textwrap.wrap(
        text,
        min(shutil.get_terminal_size().columns, MOST_COLUMNS),
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )
    click.echo("\n".join(lines).replace(UNBROKEN, " "))
    if text.endswith("\n"):
        click.echo("")


def near(path: Path) -> str:
    """The path from here, where that is below here; the whole path elsewhere."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
