"""The one line a job ends with."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from r2ec.etl.quarantine import reasons_text
from r2ec.etl.reasons import reasons_table


class StageClock:
    """Wall seconds by stage; a stage that is entered again goes on counting."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + spent


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSummary:
    """What a job read, kept and left out; `rows_in` = kept + duplicates + filtered + rejected."""

    job: str
    target: str
    rows_in: int
    rows_kept: int
    num_duplicates: int = 0
    duplicates_are: str = "exact duplicates dropped"
    num_filtered: dict[str, int] = field(default_factory=dict)
    num_rejected: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    figures: dict[str, int | str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    num_audits: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        left_out = sum(self.num_filtered.values()) + sum(self.num_rejected.values())
        accounted = self.rows_kept + self.num_duplicates + left_out
        assert self.rows_in == accounted, f"{self.rows_in} rows in, {accounted} accounted for"

    def table(self) -> str:
        """The rejected rows by reason, each with an example; empty when there is none."""
        return reasons_table(self.num_rejected, self.examples) if self.num_rejected else ""

    def line(self) -> str:
        """The summary as people and logs read it."""
        num_rejected = sum(self.num_rejected.values())
        reasons = f" ({reasons_text(self.num_rejected)})" if num_rejected else ""
        parts = [
            f"rows in {self.rows_in}",
            f"kept {self.rows_kept}",
            f"{self.duplicates_are} {self.num_duplicates}",
            *(f"{name} {count}" for name, count in self.num_filtered.items()),
            f"quarantined {num_rejected}{reasons}",
            *(f"{name} {value}" for name, value in self.figures.items()),
            f"audits passed {self.num_audits}",
            *(f"{stage} {seconds:.1f} s" for stage, seconds in self.stages.items()),
            f"total {self.seconds:.1f} s",
        ]
        return f"{self.job} {self.target}: {', '.join(parts)}"


def run_id(job: str, *inputs: object) -> str:
    """A name for a run that is the same for the same inputs and options."""
    digest = hashlib.sha256(repr(inputs).encode()).hexdigest()[:12]
    return f"{job}-{digest}"
