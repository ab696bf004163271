"""Log lines and progress: text for people, JSON for machines, a bar where there is a terminal."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, TextIO

LogFormat = Literal["text", "json"]
LINE_EVERY_SECONDS = 10.0
# Columns of a terminal; each part with the space beside it.
ROOM_FOR_A_BAR, LEAST_BAR_WIDTH, SPINNER_WIDTH = 70, 8, 3
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, and the extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((k, v) for k, v in vars(record).items() if k not in _STANDARD_FIELDS)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class StderrHandler(logging.Handler):
    """Writes to whatever `sys.stderr` is when a line comes, so that a redirected one is met."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")
        sys.stderr.flush()


def configure(log_format: LogFormat = "text", level: str = "INFO") -> None:
    """Send the project's log lines to stderr in this format; may be called again.

    Raises ValueError for an unknown level.
    """
    handler = StderrHandler()
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("r2ec")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; `name` is its `__name__`, below `r2ec` whatever the caller is."""
    return logging.getLogger(name if name.split(".")[0] == "r2ec" else f"r2ec.{name}")


def format_seconds(seconds: float) -> str:
    """`42 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(count: float) -> str:
    """`512 bytes`, `1.5 MB`: powers of 1,000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"


def format_progress(
    description: str,
    done: int,
    total: int | None,
    elapsed: float,
    *,
    is_bytes: bool = False,
    is_estimate: bool = False,
) -> str:
    """One line on how far the work is, its rate, and the time left where `total` is known.

    With `is_estimate` the total is near the truth, and the line says `about`.
    """
    rate = done / elapsed if elapsed > 0 else 0.0
    line = f"{description}: {format_bytes(done) if is_bytes else f'{done:,}'}"
    if total is not None:
        about = "about " if is_estimate else ""
        line += f" of {about}{format_bytes(total) if is_bytes else f'{total:,}'}"
    line += f", {format_bytes(rate) if is_bytes else f'{rate:,.1f}'}/s"
    if total is not None and 0 < done < total and rate > 0:
        line += f", {format_seconds((total - done) / rate)} left"
    return line


@contextmanager
def progress(
    description: str,
    total: int | None = None,
    *,
    stream: TextIO | None = None,
    is_bytes: bool = False,
    is_estimate: bool = False,
) -> Iterator[Callable[[int], None]]:
    """Show how far the work is: yields `advance(n)`, to be called with each n units done.

    A rich bar with rate and time left on a terminal with text logs; elsewhere a log line every
    ten seconds and one at the end. `is_estimate` says that `total` is only near the truth.
    """
    stream = stream or sys.stderr
    json_lines = any(
        isinstance(handler.formatter, JsonFormatter)
        for handler in logging.getLogger("r2ec").handlers
    )
    if stream.isatty() and not json_lines:
        with _bar(description, total, stream, is_bytes, is_estimate) as advance:
            yield advance
    else:
        with _lines(description, total, is_bytes, is_estimate) as advance:
            yield advance


@contextmanager
def _lines(
    description: str, total: int | None, is_bytes: bool, is_estimate: bool
) -> Iterator[Callable[[int], None]]:
    logger = get_logger(__name__)
    started = last_line = time.monotonic()
    done = 0

    def advance(count: int = 1) -> None:
        nonlocal done, last_line
        done += count
        now = time.monotonic()
        if now - last_line >= LINE_EVERY_SECONDS:
            last_line = now
            elapsed = now - started
            kinds = {"is_bytes": is_bytes, "is_estimate": is_estimate}
            logger.info(format_progress(description, done, total, elapsed, **kinds))

    yield advance
    elapsed = time.monotonic() - started
    line = format_progress(description, done, None, elapsed, is_bytes=is_bytes)
    logger.info("%s, done in %s", line, format_seconds(elapsed))


@contextmanager
def _bar(
    description: str, total: int | None, stream: TextIO, is_bytes: bool, is_estimate: bool
) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn

    console = Console(file=stream)
    has_bar = console.width >= ROOM_FOR_A_BAR
    taken = SPINNER_WIDTH + (LEAST_BAR_WIDTH if has_bar else 0)
    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
    ]
    if has_bar:
        columns.append(BarColumn(bar_width=None))
    columns.append(TextColumn("{task.fields[told]}", markup=False))
    with Progress(*columns, console=console) as bar:
        started = time.monotonic()
        task = bar.add_task("", total=total, told="")

        def tell(done: int, total: int | None) -> None:
            told = _told(done, total, time.monotonic() - started, is_bytes, is_estimate)
            shown = cut(description, console.width - taken - len(told))
            bar.update(task, completed=done, description=shown, told=told)

        def advance(count: int = 1) -> None:
            tell(int(bar.tasks[task].completed) + count, total)

        tell(0, total)
        yield advance
        if is_estimate:
            done = int(bar.tasks[task].completed)
            bar.update(task, total=done)
            tell(done, None)


def cut(text: str, width: int) -> str:
    """The text, or its beginning and `…` where it is wider than that."""
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


def _told(done: int, total: int | None, elapsed: float, is_bytes: bool, is_estimate: bool) -> str:
    """`25,000/62,500, 12,427.0/s, 3 s left`, or the time it took; no rate before the first is."""
    count = format_bytes if is_bytes else "{:,}".format
    about = "~" if is_estimate else ""
    told = count(done) if total is None else f"{count(done)}/{about}{count(total)}"
    if not done:
        return told
    rate = done / max(elapsed, 1e-9)
    told += f", {format_bytes(rate) if is_bytes else f'{rate:,.1f}'}/s"
    if total is not None and done < total:
        return f"{told}, {format_seconds((total - done) / rate)} left"
    return f"{told}, {format_seconds(elapsed)}"
