"""Rejected rows: kept with their text and reason, and the share of them that a run may have."""

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from r2ec.errors import GateError
from r2ec.etl.files import InputFile
from r2ec.etl.rows import source_of
from r2ec.etl.staging import Staging
from r2ec.etl.tables import conform
from r2ec.schemas import QUARANTINE

MAX_QUARANTINE_SHARE = 0.2
_HINTS = {
    "bad_time": "check --time-column and --time-unit",
    "time_out_of_range": "check --time-unit",
    "bad_rating": "check --rating-column",
    "unknown_item": "check --item-column or build the catalog with --unknown-items keep",
    "broken_row": "check the format and --delimiter",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantine:
    """The partition of one job and day, and what it may hold."""

    job: str
    day: str
    run_id: str
    max_share: float

    @property
    def place(self) -> tuple[str, ...]:
        """The partition's folders."""
        return ("quarantine", f"job={self.job}", f"date={self.day}")

    def stage(self, staging: Staging, rejected: DataFrame, files: list[InputFile]) -> None:
        """Write the rejected rows (`place`, `line`, `reason`) in the order of the input."""
        rows = rejected.orderBy("place").select(
            source_of(files, F.col("place")).alias("source"),
            "line",
            "reason",
            F.lit(self.run_id).alias("run_id"),
        )
        staging.write(conform(rows, QUARANTINE), *self.place)

    def check(self, staging: Staging, num_by_reason: dict[str, int], num_rows: int) -> None:
        """Raise GateError when too many of the input's rows were rejected, or all of them.

        The staged quarantine is then published all the same, and nothing else.
        """
        num_rejected = sum(num_by_reason.values())
        if num_rejected <= self.max_share * num_rows and num_rejected < num_rows:
            return
        staging.publish([self.place])
        hint = _HINTS.get(max(num_by_reason, key=lambda reason: num_by_reason[reason]))
        raise GateError(
            f"{num_rejected} of {num_rows} rows of the input were rejected "
            f"({reasons_text(num_by_reason)}), more than --max-quarantine-share "
            f"{self.max_share:g} allows; only {'/'.join(self.place)} was written: look there, "
            f"{f'{hint}, ' if hint else ''}mend the input, or allow a larger share"
        )


def reasons_text(num_by_reason: dict[str, int]) -> str:
    """`bad_time 3, unknown_item 1`, most frequent first."""
    pairs = sorted(num_by_reason.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{reason} {count}" for reason, count in pairs)
