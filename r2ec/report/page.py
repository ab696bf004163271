"""The report: one HTML file about a published date that needs nothing from anywhere else."""

import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from r2ec import schemas
from r2ec.errors import NotReadyError
from r2ec.report import sections
from r2ec.report.examples import ExampleSettings, load_examples
from r2ec.report.figures import DateFigures, load_figures, metric_tables
from r2ec.report.training import Training
from r2ec.storage import Warehouse
from r2ec.warehouse_views import published_runs, with_views

PAGE_BYTES = 2_000_000
EXAMPLE_BYTES = 1_300_000
# What a page shows of tables that may grow without end; it says how many rows are left out.
MOST_METRIC_ROWS, MOST_REASONS, MOST_DATES, MOST_ERRORS = 40, 30, 30, 10


def published_model(warehouse: Warehouse, date: str) -> str:
    """The fingerprint of the model that scored a date. Raises `NotReadyError` for another date."""
    runs = published_runs(warehouse)
    if date not in runs:
        there = f"published: {', '.join(sorted(runs)[-5:])}" if runs else "none is published yet"
        raise NotReadyError(
            f"{date} is not published in {warehouse.path()} ({there}); "
            f"r2ec-cli score --date {date} makes it"
        )
    return str(warehouse.read_table(schemas.RUNS, date=date)["model"][0].as_py())


def build_page(warehouse: Warehouse, settings: ExampleSettings, training: Training | None) -> str:
    """The page as text. Raises `NotReadyError` for a date or a user that is not there."""

    def read(views: Any) -> tuple[DateFigures, list[dict[str, Any]]]:
        return (
            load_figures(views, settings.date, days=settings.days),
            load_examples(views, settings, max_bytes=EXAMPLE_BYTES),
        )

    figures, examples = with_views(warehouse, read)
    return render(figures, examples, training)


def render(
    figures: DateFigures, examples: Sequence[dict[str, Any]], training: Training | None
) -> str:
    """Figures, users and curves as HTML; every text is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for name in ("count", "small", "share", "plain", "duration"):
        environment.filters[name] = getattr(sections, name)
    folder = files("r2ec.report")
    model = figures.run["model"]
    return environment.from_string(folder.joinpath("page.html.jinja").read_text("utf-8")).render(
        style=folder.joinpath("page.css").read_text("utf-8"),
        script=folder.joinpath("page.js").read_text("utf-8"),
        figures=figures,
        run=figures.run,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        tiles=sections.tiles(figures),
        data_charts=sections.data_charts(figures),
        list_charts=sections.list_charts(figures),
        cost_charts=sections.cost_charts(figures.costs),
        training=training,
        training_charts=[] if training is None else sections.training_charts(training),
        budget=sections.budget_chart(figures.metrics, model),
        metric_tables=metric_tables(figures.metrics, model),
        examples=list(examples),
        most_metric_rows=MOST_METRIC_ROWS,
        most_reasons=MOST_REASONS,
        most_dates=MOST_DATES,
        most_errors=MOST_ERRORS,
    )


def write_page(text: str, file: Path) -> int:
    """Write the page whole or not at all; returns its bytes."""
    data = text.encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, staging = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(staging, 0o644)
        os.replace(staging, file)
    except BaseException:
        os.unlink(staging)
        raise
    return len(data)
