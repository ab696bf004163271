"""The rows of a query, written out: for people, as text for programs, as Parquet."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from r2ec.cli import screen
from r2ec.cli.plain_value import plain, span
from r2ec.errors import UsageError
from r2ec.storage import Warehouse


def check_output(output: str | None, output_format: str, warehouse: Warehouse) -> None:
    """Refuse a file in the warehouse, and Parquet on a terminal. Raises UsageError."""
    if output is None:
        if output_format == "parquet" and sys.stdout.isatty():
            raise UsageError("--format parquet is not for a terminal: give --output FILE")
    elif not warehouse.is_s3 and Path(output).resolve().is_relative_to(
        Path(warehouse.path()).resolve()
    ):
        raise UsageError(f"--output {output} lies in the warehouse: choose another place")


def write_result(rows: pa.Table, output_format: str, output: str | None) -> None:
    """Write the rows to the file `output`, or to stdout where it is None.

    A second column of one name gets a number, `user_id_1`: no format can tell the two apart.
    """
    rows = rows.rename_columns(distinct_names(rows.schema.names))
    if output_format == "parquet":
        with nullcontext(sys.stdout.buffer) if output is None else open(output, "wb") as sink:
            pq.write_table(rows, sink, compression="zstd")
        return
    rows = _with_far_times_as_text(rows)
    write = {"table": screen.write_table, "csv": write_csv, "json": write_json}[output_format]
    with nullcontext(sys.stdout) if output is None else open(output, "w", encoding="utf-8") as file:
        write(rows, file)


def _with_far_times_as_text(rows: pa.Table) -> pa.Table:
    """Columns with days or times beyond the years that Python has, such as infinity, as texts."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_date(field.type) or pa.types.is_timestamp(field.type):
            years = pc.year(rows.column(place))
            if pc.any(pc.or_(pc.less(years, 1), pc.greater(years, 9999))).as_py():
                rows = rows.set_column(place, field.name, rows.column(place).cast(pa.string()))
    return rows


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names in their order, a later one of the same letters with the next free number."""
    taken, distinct = set(names), list[str]()
    for name in names:
        number, new = 0, name
        while new in distinct or (number and new in taken):
            number += 1
            new = f"{name}_{number}"
        distinct.append(new)
    return distinct


def write_csv(rows: pa.Table, file: TextIO) -> None:
    """The rows as CSV with a header; lists and times as in JSON."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(rows.schema.names)
    for row in _rows(rows):
        writer.writerow([_csv_value(value) for value in row.values()])


def write_json(rows: pa.Table, file: TextIO) -> None:
    """The rows as one JSON array of objects, one a line."""
    separator = "["
    for row in _rows(rows):
        line = json.dumps(plain(row), ensure_ascii=False, allow_nan=False)
        file.write(f"{separator}\n{line}")
        separator = ","
    file.write("\n]\n" if separator == "," else "[]\n")


def _rows(rows: pa.Table) -> Iterator[dict[str, Any]]:
    rows = _with_short_floats(rows)
    for batch in rows.to_batches(max_chunksize=4096):
        yield from batch.to_pylist()


def _with_short_floats(rows: pa.Table) -> pa.Table:
    """Columns of single floats with the digits that tell them: 4.9, and not 4.900000095367432."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_float32(field.type):
            short = rows.column(place).cast(pa.string()).cast(pa.float64())
            rows = rows.set_column(place, field.name, short)
    return rows


def _csv_value(value: Any) -> Any:
    if isinstance(value, pa.MonthDayNano):
        return span(value)
    if isinstance(value, list | tuple | dict):
        return json.dumps(plain(value), ensure_ascii=False)
    return plain(value) if isinstance(value, date | bytes) else value
