"""Audits: the queries of `sql/audits` over tables just written; each must return no row."""

from collections.abc import Iterable

from pyspark.sql import DataFrame, SparkSession

from r2ec import sql_files
from r2ec.errors import GateError

_SHOWN_ROWS = 3


def run_audits(
    spark: SparkSession,
    tables: dict[str, DataFrame],
    changed: Iterable[str],
    *,
    strict_time: bool = False,
) -> int:
    """Run the audits that read a changed table and nothing but `tables`; return their number.

    They run as one query; with `strict_time` those for tables built so come along. Raises
    GateError with the audits' names and some of the rows they found.
    """
    strict = sql_files.read_folder("audits/strict_time") if strict_time else []
    chosen = [
        audit
        for audit in [*sql_files.read_folder("audits"), *strict]
        if set(audit.reads) <= tables.keys() and set(audit.reads) & set(changed)
    ]
    findings = "\nUNION ALL\n".join(
        f"(SELECT '{audit.name}' AS audit, to_json(struct(*)) AS finding\n"
        f"FROM (\n{audit.text}\n)\nLIMIT {_SHOWN_ROWS})"
        for audit in chosen
    )
    for name, rows in tables.items():
        rows.createOrReplaceTempView(name)
    try:
        found = spark.sql(findings).collect() if chosen else []
    finally:
        for name in tables:
            spark.catalog.dropTempView(name)
    if found:
        names = ", ".join(sorted({row["audit"] for row in found}))
        examples = "; ".join(row["finding"] for row in found[:_SHOWN_ROWS])
        raise GateError(f"audit failed: {names}; nothing was published. For example: {examples}")
    return len(chosen)
