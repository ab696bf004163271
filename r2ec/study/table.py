"""The table of a study: means, intervals over users and seeds, differences against the first row.

For a difference the same users are drawn for both rows (paired bootstrap), so what all rows find
hard does not widen it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from r2ec.errors import R2ecError
from r2ec.metrics import hit_rate_at_k, ndcg_at_k
from r2ec.study.bootstrap import interval, paired_difference
from r2ec.study.config import StudyConfig
from r2ec.study.runs import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One row, split and metric. `difference` is to the first row (None there)."""

    row: str
    split: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    lowest_seed: float
    highest_seed: float
    seeds: int
    sequences: int
    users: int


@dataclass(frozen=True, slots=True)
class _Sequences:
    """What the ranks of a split are of, by ascending id."""

    ids: list[int]
    users: list[str] | None


def build_table(study: StudyConfig, runs: Sequence[Run]) -> list[Line]:
    """Lines of all finished runs, in the order of the study's rows; splits and metrics within."""
    lines: list[Line] = []
    first: dict[tuple[str, str], NDArray[np.float64]] = {}
    order: dict[str, _Sequences] = {}
    for row in study.rows:
        finished = [run for run in runs if run.row.name == row.name and run.is_done]
        if not finished:
            continue
        for budget in row.budgets or (None,):
            name = row.name if budget is None else f"{row.name}, {budget} tokens"
            for split in study.splits:
                ranks = [_ranks(run.ranks(split, budget), order, split) for run in finished]
                for metric, k in [("hit_rate", k) for k in study.ks] + [("ndcg", 10)]:
                    of_rank = hit_rate_at_k if metric == "hit_rate" else ndcg_at_k
                    values = np.stack([of_rank(one, k) for one in ranks])
                    users = order[split].users
                    line = _line(name, split, f"{metric}@{k}", values, users, first)
                    lines.append(line)
    return lines


def _line(
    row: str,
    split: str,
    metric: str,
    values_SB: NDArray[np.float64],
    users: list[str] | None,
    first: dict[tuple[str, str], NDArray[np.float64]],
) -> Line:
    """One line from the values of S seeds and B sequences; keeps those of the first row."""
    low, high = interval(values_SB, users)
    difference: tuple[float | None, ...] = (None, None, None)
    if (split, metric) in first:
        difference = paired_difference(values_SB, first[split, metric], users)
    else:
        first[split, metric] = values_SB
    return Line(
        row=row,
        split=split,
        metric=metric,
        value=float(values_SB.mean()),
        ci_low=low,
        ci_high=high,
        difference=difference[0],
        difference_low=difference[1],
        difference_high=difference[2],
        lowest_seed=float(values_SB.mean(axis=1).min()),
        highest_seed=float(values_SB.mean(axis=1).max()),
        seeds=len(values_SB),
        sequences=values_SB.shape[1],
        users=values_SB.shape[1] if users is None else len(set(users)),
    )


def _ranks(file: Path, order: dict[str, _Sequences], split: str) -> NDArray[np.int64]:
    """Ranks in order of `sequence_id`, which must be the same in all files of a split."""
    table = pq.read_table(file).sort_by("sequence_id")
    found = _Sequences(
        ids=table["sequence_id"].to_pylist(),
        users=table["user_id"].to_pylist() if "user_id" in table.column_names else None,
    )
    if order.setdefault(split, found).ids != found.ids:
        raise R2ecError(
            f"{file} ranks other sequences than the first row: the warehouse changed between the"
            " runs. Run the study anew in another --output"
        )
    ranks: NDArray[np.int64] = table["rank"].to_numpy()
    return ranks


def write_table(lines: Sequence[Line], study: StudyConfig, output: Path) -> None:
    """`table.parquet` with all columns and `table.md` for people."""
    rows = pa.Table.from_pylist([asdict(line) for line in lines])
    pq.write_table(rows, output / "table.parquet")
    (output / "table.md").write_text(markdown(lines, study), encoding="utf-8")


def markdown(lines: Sequence[Line], study: StudyConfig) -> str:
    """A table a split: value with interval, then the difference to the first row."""
    text = [f"# {study.title}", "", study.question, ""]
    for split in study.splits:
        here = [line for line in lines if line.split == split]
        metrics = list(dict.fromkeys(line.metric for line in here))
        sequences, users = (
            max((getattr(line, of) for line in here), default=0) for of in ("sequences", "users")
        )
        text += [f"## {split}, {sequences:,} sequences of {users:,} users", ""]
        head = ["row", *metrics, f"{metrics[-1]} against the first row" if metrics else "", "seeds"]
        text += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for row in dict.fromkeys(line.row for line in here):
            of_row = {line.metric: line for line in here if line.row == row}
            last = of_row[metrics[-1]]
            cells = [row, *(_value(of_row[metric]) for metric in metrics), _difference(last)]
            text.append(f"| {' | '.join(cells)} | {last.seeds} |")
        text.append("")
    return "\n".join(text)


def _value(line: Line) -> str:
    return f"{_short(line.value)} [{_short(line.ci_low)}, {_short(line.ci_high)}]"


def _difference(line: Line) -> str:
    if line.difference is None or line.difference_low is None or line.difference_high is None:
        return ""
    bounds = f"[{_signed(line.difference_low)}, {_signed(line.difference_high)}]"
    return f"{_signed(line.difference)} {bounds}"


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _signed(value: float) -> str:
    return ("-" if value < 0 else "+") + f"{abs(value):.4f}".removeprefix("0")
