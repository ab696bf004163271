"""The global time split: two cut times that never divide one timestamp."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from r2ec.etl.arrow_map import ArrowTask, map_in_arrow
from r2ec.etl.chunks import read_chunks
from r2ec.etl.kcore import Core
from r2ec.etl.windows import before_each_event

DAY_MICROS = 86_400_000_000
_COUNTS = "value bigint, num_targets bigint, num_events bigint, num_users bigint"
_ARROW_COUNTS = pa.schema(
    [(name, pa.int64()) for name in ("value", "num_targets", "num_events", "num_users")]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitCuts:
    """Train holds targets up to and at `train_until`, valid those up to and at `valid_until`."""

    train_until: int
    valid_until: int

    def bounds(self, split: str) -> tuple[int | None, int | None]:
        """The times (microseconds) after the first of which, up to the second, its targets lie."""
        return {
            "train": (None, self.train_until),
            "valid": (self.train_until, self.valid_until),
            "test": (self.valid_until, None),
        }[split]


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetCounts:
    """Events and users of the core, and its targets by day; a target is an event with a history."""

    num_events: int
    num_users: int
    by_day: dict[int, int]

    @property
    def num_targets(self) -> int:
        """All targets."""
        return sum(self.by_day.values())


def count_targets(packed: DataFrame, core: Core, *, strict_time: bool) -> TargetCounts:
    """Count the core's targets by day (UTC, from 1970)."""
    rows = _count(packed, core, strict_time, None)
    return TargetCounts(
        num_events=sum(row["num_events"] for row in rows),
        num_users=sum(row["num_users"] for row in rows),
        by_day=_summed(rows),
    )


def find_cuts(
    packed: DataFrame,
    core: Core,
    counts: TargetCounts,
    ratio: tuple[float, float, float],
    *,
    strict_time: bool,
) -> SplitCuts:
    """The earliest times up to which the shares train and train + valid of the targets lie.

    Exact at any size: only the one or two days that hold a cut are looked into.
    """
    by_day = sorted(counts.by_day.items())
    wanted = [ratio[0] * counts.num_targets, (ratio[0] + ratio[1]) * counts.num_targets]
    days = [_reach(by_day, 0, share) for share in wanted]
    in_days = _summed(_count(packed, core, strict_time, [day for day, _ in days]))
    by_time = sorted(in_days.items())
    cuts = []
    for (day, before), share in zip(days, wanted, strict=True):
        of_day = [(time, count) for time, count in by_time if time // DAY_MICROS == day]
        cuts.append(_reach(of_day, before, share)[0])
    return SplitCuts(train_until=cuts[0], valid_until=cuts[1])


def _reach(counts: list[tuple[int, int]], before: int, share: float) -> tuple[int, int]:
    """The first value at which the running count reaches the share, and the count before it."""
    for value, count in counts:
        # The ratios are decimal fractions: 0.8 + 0.1 must not ask for one row more than 0.9.
        if before + count >= share - 1e-6:
            return value, before
        before += count
    return counts[-1][0], before - counts[-1][1]


def _summed(rows: list[dict[str, int]]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for row in rows:
        total[row["value"]] += row["num_targets"]
    return {value: count for value, count in total.items() if count}


def _count(
    packed: DataFrame, core: Core, strict_time: bool, days: list[int] | None
) -> list[dict[str, int]]:
    """Targets by day, or by time within some days; events and users of each chunk beside them."""
    chunks = packed.select("num_events", "item_index", "time")
    found = map_in_arrow(chunks, _counting(core, strict_time, days), _COUNTS)
    rows: list[dict[str, int]] = found.toArrow().to_pylist()
    return rows


def _counting(core: Core, strict_time: bool, days: list[int] | None) -> ArrowTask:
    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for whole in read_chunks(batches):
            chunk = core.of(whole)
            if not chunk.size:
                continue
            begin, end = before_each_event(chunk, window=1, strict_time=strict_time)
            times = chunk.time.filter(pc.greater(end, begin))
            day = _days(times)
            if days is None:
                values, counts = pc.value_counts(day).flatten()
            else:
                inside = pc.is_in(day, value_set=pa.array(days, pa.int64()))
                values, counts = pc.value_counts(times.filter(inside)).flatten()
            # One row carries the chunk's events and users; day 0 has no targets of its own there.
            sizes = {"num_events": chunk.size, "num_users": len(chunk.user_id)}
            yield pa.RecordBatch.from_pylist(
                [{"value": 0, "num_targets": 0, **sizes}], schema=_ARROW_COUNTS
            )
            zeros = pa.repeat(pa.scalar(0, pa.int64()), len(values))
            yield pa.RecordBatch.from_arrays([values, counts, zeros, zeros], schema=_ARROW_COUNTS)

    return count


def _days(times: pa.Array) -> pa.Array:
    """Days from 1970; all times are after it (see `read_interactions`)."""
    return pc.divide(times, pa.scalar(DAY_MICROS))
