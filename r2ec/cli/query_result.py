"""The rows of a query, written out: for people, as text for programs, as Parquet."""

import csv
import json
import sys
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from r2ec.cli import screen
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
    """Write the rows to the file `output`, or to stdout where it is None."""
    if output_format == "parquet":
        with nullcontext(sys.stdout.buffer) if output is None else open(output, "wb") as sink:
            pq.write_table(rows, sink, compression="zstd")
        return
    write = {"table": screen.write_table, "csv": write_csv, "json": write_json}[output_format]
    with nullcontext(sys.stdout) if output is None else open(output, "w", encoding="utf-8") as file:
        write(rows, file)


def write_csv(rows: pa.Table, file: TextIO) -> None:
    """The rows as CSV with a header; lists and times as in JSON."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(rows.schema.names)
    for batch in rows.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            writer.writerow([_csv_value(value) for value in row.values()])


def write_json(rows: pa.Table, file: TextIO) -> None:
    """The rows as one JSON array of objects, one a line."""
    separator = "["
    for batch in rows.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            line = json.dumps(row, ensure_ascii=False, default=_iso)
            file.write(f"{separator}\n{line}")
            separator = ","
    file.write("\n]\n" if separator == "," else "[]\n")


def _csv_value(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=_iso)
    return _iso(value) if isinstance(value, date) else value


def _iso(value: Any) -> str:
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
