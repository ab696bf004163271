"""Rejected rows: kept with their text and reason, and the share of them that a run may have."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from r2ec.errors import GateError
from r2ec.etl.files import InputFile
from r2ec.etl.rows import source_of

MAX_QUARANTINE_SHARE = 0.2
_HINTS = {
    "bad_time": "look at --time-column and --time-unit",
    "time_out_of_range": "look at --time-unit",
    "bad_rating": "look at --rating-column",
    "unknown_item": "look at --item-column, or build the catalog with --unknown-items keep",
    "broken_row": "look at the format and --delimiter",
}


def quarantine_rows(rejected: DataFrame, files: list[InputFile], run_id: str) -> DataFrame:
    """The rows of the quarantine table, in the order of the input, from `place, line, reason`."""
    return rejected.orderBy("place").select(
        source_of(files, F.col("place")).alias("source"),
        "line",
        "reason",
        F.lit(run_id).alias("run_id"),
    )


def check_share(num_by_reason: dict[str, int], *, num_rows: int, limit: float, where: str) -> None:
    """Raise GateError when more than `limit` of the input rows were rejected."""
    num_rejected = sum(num_by_reason.values())
    if num_rejected <= limit * num_rows:
        return
    most_common = max(num_by_reason, key=lambda reason: num_by_reason[reason])
    hint = f"{_HINTS[most_common]}, " if most_common in _HINTS else ""
    raise GateError(
        f"{num_rejected} of {num_rows} rows of the input were rejected "
        f"({reasons_text(num_by_reason)}), more than --max-quarantine-share {limit:g}; nothing but "
        f"{where} was written: {hint}mend the input, or allow a larger share"
    )


def reasons_text(num_by_reason: dict[str, int]) -> str:
    """`bad_time 3, unknown_item 1`, most frequent first."""
    pairs = sorted(num_by_reason.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{reason} {count}" for reason, count in pairs)
