"""Rejected rows: kept with their text and reason, and the share of them that a run may have."""

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from r2ec.errors import GateError
from r2ec.etl.files import InputFile
from r2ec.etl.reasons import REMEDIES, example
from r2ec.etl.rows import source_of
from r2ec.etl.staging import Staging
from r2ec.etl.tables import conform, read_table
from r2ec.schemas import QUARANTINE

MAX_QUARANTINE_SHARE = 0.2
_LONGEST_EXAMPLE = 200
# The date of the rejected rows of a log without one event.
UNDATED = "1970-01-01"


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

    @property
    def undated_place(self) -> tuple[str, ...]:
        """The partition of a run of this job that could not tell the day."""
        return ("quarantine", f"job={self.job}", f"date={UNDATED}")

    def stage(
        self, staging: Staging, rejected: DataFrame, files: list[InputFile]
    ) -> dict[str, str]:
        """Write the rejected rows (`place`, `line`, `reason`) in the order of the input.

        Returns an example by reason: the line that comes first by its text, the same in every run.
        """
        rows = rejected.orderBy("place").select(
            source_of(files, F.col("place")).alias("source"),
            "line",
            "reason",
            F.lit(self.run_id).alias("run_id"),
        )
        staging.write(conform(rows, QUARANTINE), *self.place)
        staged = read_table(rejected.sparkSession, QUARANTINE, staging.uri(*self.place))
        first = F.min(F.substring("line", 1, _LONGEST_EXAMPLE)).alias("line")
        found = staged.groupBy("reason").agg(first).collect()
        return {row["reason"]: row["line"] for row in found if row["line"] is not None}

    def check(
        self,
        staging: Staging,
        num_by_reason: dict[str, int],
        num_rows: int,
        examples: dict[str, str] | None = None,
    ) -> None:
        """Raise GateError when too many of the input's rows were rejected, or all of them.

        The staged quarantine is then published all the same, and nothing else.
        """
        num_rejected = sum(num_by_reason.values())
        if num_rejected <= self.max_share * num_rows and num_rejected < num_rows:
            return
        staging.publish([self.place])
        reason = max(num_by_reason, key=lambda reason: num_by_reason[reason])
        hint = REMEDIES.get(reason)
        line = (examples or {}).get(reason)
        such_as = f", such as {example(line)!r}" if line else ""
        raise GateError(
            f"{num_rejected} of {num_rows} rows of the input were rejected "
            f"({reasons_text(num_by_reason)}), more than --max-quarantine-share "
            f"{self.max_share:g} allows; only {'/'.join(self.place)} was written. "
            f"{f'{reason}: {hint}{such_as}. ' if hint else ''}"
            "Look there, mend the input, or allow a larger share"
        )


def reasons_text(num_by_reason: dict[str, int]) -> str:
    """`bad_time 3, unknown_item 1`, most frequent first."""
    pairs = sorted(num_by_reason.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{reason} {count}" for reason, count in pairs)
