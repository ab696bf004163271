"""The global time split: two cut times that never divide one timestamp."""

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

DAY_MICROS = 86_400_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitCuts:
    """Train holds targets up to and at `train_until`, valid those up to and at `valid_until`."""

    train_until: int
    valid_until: int

    def split_of(self, time: Column) -> Column:
        """The name of the split of a target's time in microseconds."""
        train, valid = time <= self.train_until, time <= self.valid_until
        return F.when(train, "train").when(valid, "valid").otherwise("test")


def find_cuts(target_times: DataFrame, ratio: tuple[float, float, float]) -> SplitCuts:
    """The earliest times up to which the shares train and train + valid of the targets lie.

    `target_times` has one row per target with `time` in microseconds. Exact at any size: counts by
    day first, then by time within the one or two days that hold a cut.
    """
    day = F.floor(F.col("time") / DAY_MICROS)
    by_day = _counts(target_times.select(day.alias("value")))
    total = sum(count for _, count in by_day)
    wanted = [ratio[0] * total, (ratio[0] + ratio[1]) * total]
    days = [_reach(by_day, 0, share) for share in wanted]
    held = target_times.where(day.isin([value for value, _ in days]))
    by_time = _counts(held.select(F.col("time").alias("value")))
    times = []
    for (value, before), share in zip(days, wanted, strict=True):
        within = [(time, n) for time, n in by_time if time // DAY_MICROS == value]
        times.append(_reach(within, before, share)[0])
    return SplitCuts(train_until=times[0], valid_until=times[1])


def _counts(values: DataFrame) -> list[tuple[int, int]]:
    rows = values.groupBy("value").count().orderBy("value").collect()
    return [(row["value"], row["count"]) for row in rows]


def _reach(counts: list[tuple[int, int]], before: int, share: float) -> tuple[int, int]:
    """The first value at which the running count reaches the share, and the count before it."""
    for value, count in counts:
        # The ratios are decimal fractions: 0.8 + 0.1 must not ask for one row more than 0.9.
        if before + count >= share - 1e-6:
            return value, before
        before += count
    return counts[-1][0], before - counts[-1][1]
