"""The picture of a study: a point and its interval for every row, one panel a split."""

from collections.abc import Sequence
from pathlib import Path

from r2ec.errors import R2ecError
from r2ec.study.config import StudyConfig
from r2ec.study.table import Line

_COLOUR, _FIRST = "#1f5fa8", "#8a8a8a"
_NAMES = {"ndcg@10": "N@10", "hit_rate@10": "H@10"}


def draw(lines: Sequence[Line], study: StudyConfig, file: Path) -> None:
    """Write the picture; its kind follows the file's suffix (.svg, .png).

    Raises `R2ecError` where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise R2ecError("pictures need matplotlib: pip install 'r2ec[study]'") from error
    rows = list(dict.fromkeys(line.row for line in lines))
    height = 1.6 + 0.34 * len(rows)
    figure = Figure(figsize=(4.4 * len(study.splits) + 1.6, height), layout="constrained")
    panels = figure.subplots(1, len(study.splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, study.splits, strict=True):
        here = [x for x in lines if x.split == split and x.metric == study.picture]
        for line in here:
            place = rows.index(line.row)
            colour = _FIRST if line.difference is None else _COLOUR
            axes.plot([line.ci_low, line.ci_high], [place, place], color=colour, linewidth=2)
            axes.plot(line.value, place, "o", color=colour, markersize=6)
            if line.seeds > 1:
                ends = [line.lowest_seed, line.highest_seed]
                axes.plot(ends, [place, place], "|", color=colour, markersize=9)
        axes.set_title(split, loc="left", fontsize=10)
        axes.set_xlabel(f"{_NAMES[study.picture]}, 95 % interval; | lowest, highest seed")
        axes.xaxis.label.set_fontsize(8)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlim(left=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].invert_yaxis()
    figure.suptitle(study.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.savefig(file, dpi=150)
