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


def day_of(time: Column) -> Column:
    """The number of the day (UTC, from 1970) of a time in microseconds."""
    return F.floor(time / DAY_MICROS)


def find_cuts(
    targets_by_day: dict[int, int], target_times: DataFrame, ratio: tuple[float, float, float]
) -> SplitCuts:
    """The earliest times up to which the shares train and train + valid of the targets lie.

    `target_times` has one row per target with `time` in microseconds, `targets_by_day` their number
    by day: exact at any size, since only the one or two days that hold a cut are looked into.
    """
    by_day = sorted(targets_by_day.items())
    total = sum(targets_by_day.values())
    wanted = [ratio[0] * total, (ratio[0] + ratio[1]) * total]
    days = [_reach(by_day, 0, share) for share in wanted]
    held = target_times.where(day_of(F.col("time")).isin([day for day, _ in days]))
    counts = held.groupBy("time").count().collect()
    by_time = sorted((row["time"], row["count"]) for row in counts)
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
