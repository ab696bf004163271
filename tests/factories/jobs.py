"""The two Spark jobs run in the session of the tests, as from their command lines."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from r2ec.etl import catalog_job, sequences_job
from r2ec.etl.arguments import parse_catalog_job, parse_sequences_job
from r2ec.etl.summary import JobSummary
from tests.factories.logs import Event, make_shop


def run_catalog(spark, warehouse: Path, *options: object) -> JobSummary:
    """`build_catalog.py` with these options."""
    argv = ["--warehouse", str(warehouse), *map(str, options)]
    return catalog_job.run(spark, parse_catalog_job(argv))


def run_sequences(spark, warehouse: Path, *options: object) -> JobSummary:
    """`build_sequences.py` with these options."""
    argv = ["--warehouse", str(warehouse), *map(str, options)]
    return sequences_job.run(spark, parse_sequences_job(argv))


def build_shop(spark, folder: Path, rows: list[Event], *options: object) -> Path:
    """Both jobs over a shop of these events; returns the warehouse."""
    log, items = make_shop(folder, rows)
    warehouse = folder / "warehouse"
    run_catalog(spark, warehouse, "--items", items, "--interactions", log)
    run_sequences(spark, warehouse, "--interactions", log, *options)
    return warehouse


def read_rows(warehouse: Path, *parts: str) -> list[dict[str, object]]:
    """Rows of a table or partition, in the order of the files; partition columns left out."""
    files = sorted(warehouse.joinpath(*parts).rglob("*.parquet"))
    tables = [pq.ParquetFile(file).read() for file in files]
    return pa.concat_tables(tables).to_pylist() if tables else []


def contents(warehouse: Path) -> dict[str, list[str]]:
    """Every partition that readers may see, with its rows in no order."""
    found: dict[str, list[str]] = {}
    for file in sorted(warehouse.rglob("*.parquet")):
        parts = file.relative_to(warehouse).parts
        if not any(part.startswith(("_", ".")) for part in parts):
            rows = found.setdefault("/".join(parts[:-1]), [])
            rows += map(repr, pq.ParquetFile(file).read().to_pylist())
    return {place: sorted(rows) for place, rows in found.items()}
