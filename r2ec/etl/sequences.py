"""Sequences and histories of the core, written by tasks from the log's chunks."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
from pyspark.sql import DataFrame

from r2ec.etl.chunks import Chunk
from r2ec.etl.kcore import Core
from r2ec.etl.parts import FILE_BYTES, write_parts
from r2ec.etl.splits import SplitCuts
from r2ec.etl.staging import STAGING, Staging
from r2ec.etl.windows import history_rows, sequence_rows
from r2ec.schemas import HISTORIES, SEQUENCES

# About what a row takes in a file: its own columns, and each entry of its history.
_ROW_BYTES, _SEQUENCE_ENTRY_BYTES, _HISTORY_ENTRY_BYTES = 24, 2, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSettings:
    """How long a history is, and whether events at the target's own time are left out."""

    window: int
    strict_time: bool


def end_of_day(day: date) -> int:
    """Microseconds of the first moment after a day (UTC)."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    return int(midnight.timestamp()) * 1_000_000


def write_sequences(
    packed: DataFrame,
    core: Core,
    cuts: SplitCuts,
    split: str,
    settings: WindowSettings,
    staging: Staging,
    *,
    num_targets: int,
) -> int:
    """Stage one split of `sequences`, about `num_targets` rows; returns the rows written.

    One row per (user, target) with at least one event before the target. `sequence_id` is the
    target's place in the input.
    """
    after, until = cuts.bounds(split)

    def make_rows(chunk: Chunk) -> Iterator[pa.Table]:
        return sequence_rows(
            core.of(chunk),
            window=settings.window,
            strict_time=settings.strict_time,
            after=after,
            until=until,
        )

    row_bytes = _ROW_BYTES + settings.window * _SEQUENCE_ENTRY_BYTES
    num_tasks = _num_files(num_targets * row_bytes)
    place = (*STAGING, staging.run, "sequences", f"split={split}")
    return write_parts(
        packed,
        make_rows,
        SEQUENCES,
        staging.warehouse,
        *place,
        num_tasks=num_tasks,
    )


def write_histories(
    packed: DataFrame,
    core: Core,
    day: date,
    settings: WindowSettings,
    staging: Staging,
    *,
    num_users: int,
) -> int:
    """Stage the `histories` of one day: one row per user with an event before its end.

    The user's last `window` events before that, oldest first. Returns the rows written.
    """

    def make_rows(chunk: Chunk) -> Iterator[pa.Table]:
        return history_rows(core.of(chunk), until=end_of_day(day), window=settings.window)

    num_tasks = _num_files(num_users * (_ROW_BYTES + settings.window * _HISTORY_ENTRY_BYTES))
    place = (*STAGING, staging.run, "histories", f"date={day}")
    return write_parts(
        packed,
        make_rows,
        HISTORIES,
        staging.warehouse,
        *place,
        num_tasks=num_tasks,
    )


def _num_files(num_bytes: int) -> int:
    return max(1, round(num_bytes / FILE_BYTES))
