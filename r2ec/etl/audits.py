"""Audits: queries of `sql/audits` over the tables just written; each must return no row."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from r2ec.errors import GateError, NotReadyError

_SHOWN_ROWS = 3
_READS = re.compile(r"^-- reads:(.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """One query, the tables it reads and its name (the file's)."""

    name: str
    query: str
    reads: frozenset[str]


def load_audits() -> list[Audit]:
    """Every audit of the package or, in a checkout, of the repository; sorted by name."""
    audits = []
    for file in sorted(_folder().iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            query = file.read_text(encoding="utf-8")
            reads = ",".join(_READS.findall(query)).split(",")
            tables = frozenset(name.strip() for name in reads if name.strip())
            audits.append(Audit(name=file.name.removesuffix(".sql"), query=query, reads=tables))
    return audits


def run_audits(spark: SparkSession, tables: dict[str, DataFrame], changed: Iterable[str]) -> int:
    """Run the audits that read a changed table and nothing but `tables`; return their number.

    Raises GateError with the audit's name and some of its rows when one returns any.
    """
    chosen = [
        audit
        for audit in load_audits()
        if audit.reads <= tables.keys() and audit.reads & set(changed)
    ]
    for name, rows in tables.items():
        rows.createOrReplaceTempView(name)
    try:
        for audit in chosen:
            found = spark.sql(audit.query).limit(_SHOWN_ROWS).collect()
            if found:
                rows_text = "; ".join(str(row.asDict()) for row in found)
                raise GateError(
                    f"audit {audit.name} failed, nothing was published; for example: {rows_text}"
                )
    finally:
        for name in tables:
            spark.catalog.dropTempView(name)
    return len(chosen)


def _folder() -> Traversable:
    packaged = resources.files("r2ec") / "sql" / "audits"
    repository = Path(__file__).resolve().parents[2] / "sql" / "audits"
    for folder in (packaged, repository):
        if folder.is_dir():
            return folder
    raise NotReadyError("no sql/audits beside the package; build dist/r2ec.zip with `make dist`")
