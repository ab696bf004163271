"""Small charts as numbers that a template draws: lines with intervals, bars.

The drawing is inline SVG that takes its colours from the page, so that it follows light and dark
and is as sharp in print; every chart carries its figures as a table too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
MOST_POINTS = 160
TABLE_ROWS = 25

Number = Callable[[float], str]
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a chart: points by ascending x, their intervals where there are any."""

    name: str
    points: list[Point]
    intervals: list[Point] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A mark on an axis: where it is drawn, and its label."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A series as it is drawn: `path` joins its points; `whiskers` are (x, top, bottom)."""

    name: str
    path: str
    dots: list[Point]
    whiskers: list[tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A bar as it is drawn; `kind` is the place of its series."""

    x: float
    y: float
    width: float
    height: float
    kind: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """What the template draws, and what it reads out: `summary` in words, `rows` as a table."""

    title: str
    note: str
    summary: str
    x_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    bars: list[Bar]
    names: list[str]
    header: list[str]
    rows: list[list[str]]


def line_chart(
    title: str, series: Sequence[Series], *, x_label: str, number: Number, note: str = ""
) -> Chart | None:
    """A chart of lines; None where there is no point at all. `number` writes the values."""
    shown = [_thinned(line) for line in series if line.points]
    if not shown:
        return None
    xs = [x for line in shown for x, _ in line.points]
    ends = [y for line in shown for pair in line.intervals or () for y in pair]
    ys = [y for line in shown for _, y in line.points] + ends
    x_axis, y_axis = _Axis.over(xs, exact=True), _Axis.over(ys, is_whole=_counts(number))
    return Chart(
        title=title,
        note=note,
        summary=". ".join(_told(line, number) for line in shown),
        x_label=x_label,
        x_ticks=_x_ticks(x_axis),
        y_ticks=_y_ticks(y_axis, number),
        lines=[_drawn(line, x_axis, y_axis) for line in shown],
        bars=[],
        names=[line.name for line in shown],
        header=[x_label, *(line.name for line in shown)],
        rows=_line_rows(shown, number),
    )


def bar_chart(
    title: str,
    labels: Sequence[str],
    series: Sequence[tuple[str, Sequence[float]]],
    *,
    x_label: str,
    number: Number,
    note: str = "",
) -> Chart | None:
    """A chart of bars, those of several series side by side; None where there is no label."""
    if not labels:
        return None
    y_axis = _Axis.over(
        [0.0, *(value for _, values in series for value in values)], is_whole=_counts(number)
    )
    room = (WIDTH - LEFT - RIGHT) / len(labels)
    width = 0.8 * room / len(series)
    bars = [
        Bar(
            x=round(LEFT + room * (place + 0.1) + width * kind, 1),
            y=_y(y_axis, value),
            width=round(width, 2),
            height=round(_y(y_axis, 0.0) - _y(y_axis, value), 1),
            kind=kind,
        )
        for kind, (_, values) in enumerate(series)
        for place, value in enumerate(values)
    ]
    step = max(1, math.ceil(len(labels) / 10))
    ticks = [
        Tick(at=round(LEFT + room * (place + 0.5), 1), label=label)
        for place, label in enumerate(labels)
        if place % step == 0
    ]
    largest = [max(range(len(labels)), key=lambda at: values[at]) for _, values in series]
    return Chart(
        title=title,
        note=note,
        summary=". ".join(
            f"{name}: largest {number(values[at])} at {labels[at]}"
            for (name, values), at in zip(series, largest, strict=True)
        ),
        x_label=x_label,
        x_ticks=ticks,
        y_ticks=_y_ticks(y_axis, number),
        lines=[],
        bars=bars,
        names=[name for name, _ in series],
        header=[x_label, *(name for name, _ in series)],
        rows=[
            [label, *(number(values[place]) for _, values in series)]
            for place, label in enumerate(labels)
        ],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Axis:
    low: float
    high: float
    ticks: list[float]

    @classmethod
    def over(
        cls, values: Sequence[float], *, exact: bool = False, is_whole: bool = True
    ) -> "_Axis":
        """An axis over the values; its ends are round numbers unless `exact`.

        With `is_whole` no tick lies between whole numbers where only such are drawn: half a user,
        or half a step, is none.
        """
        low, high = min(values), max(values)
        if not exact and low > 0 and low < 0.6 * high:
            low = 0.0
        if exact and low == high:
            half = (abs(low) or 1.0) / 2
            return cls(low=low - half, high=high + half, ticks=[low])
        if low == high:
            half = (abs(low) or 1.0) / 2
            low, high = (low - half if low < 0 else 0.0), high + half
        is_whole = is_whole and all(float(value).is_integer() for value in values)
        step = _round_step((high - low) / 4, is_whole=is_whole)
        first, last = math.floor(low / step), math.ceil(high / step)
        ticks = [number * step for number in range(first, last + 1)]
        if exact:
            return cls(low=low, high=high, ticks=[t for t in ticks if low <= t <= high])
        return cls(low=ticks[0], high=ticks[-1], ticks=ticks)

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


def _round_step(step: float, *, is_whole: bool) -> float:
    if is_whole and step <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    nice = (1, 2, 5, 10) if is_whole else (1, 2, 2.5, 5, 10)
    return next(digit * power for digit in nice if digit * power >= step * 0.999)


def _counts(number: Number) -> bool:
    """Whether figures are written so as whole numbers."""
    return number(0.5).isdigit()


def _y_ticks(axis: _Axis, number: Number) -> list[Tick]:
    """The ticks with all their digits, for the rounding of the figures could make two of them one.

    From a million on they are told in millions or billions: there is room for some eight letters.
    """
    scale, unit = (100.0, " %") if number(1.0).endswith("%") else (1.0, "")
    largest = scale * max(abs(value) for value in axis.ticks)
    for size, name in ((1e9, " bn"), (1e6, " M")):
        if largest >= size:
            scale, unit = scale / size, f"{name}{unit}"
            break
    return [Tick(at=_y(axis, value), label=_digits(scale * value) + unit) for value in axis.ticks]


def _digits(value: float) -> str:
    """A round number in full: 1,500 and 0.00005, no 5e-05 but below a millionth."""
    if 0 < abs(value) < 1e-6:
        return f"{value:.3g}"
    text = f"{value:,.9f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _x(axis: _Axis, value: float) -> float:
    return round(LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT), 1)


def _y(axis: _Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM), 1)


def _x_ticks(axis: _Axis) -> list[Tick]:
    return [Tick(at=_x(axis, value), label=f"{value:,.6g}") for value in axis.ticks]


def _drawn(line: Series, x_axis: _Axis, y_axis: _Axis) -> Line:
    dots = [(_x(x_axis, x), _y(y_axis, y)) for x, y in line.points]
    return Line(
        name=line.name,
        path="M" + " L".join(f"{x} {y}" for x, y in dots),
        dots=dots if len(dots) <= TABLE_ROWS else [],
        whiskers=[
            (x, _y(y_axis, high), _y(y_axis, low))
            for (x, _), (low, high) in zip(dots, line.intervals or (), strict=False)
        ],
    )


def _thinned(line: Series) -> Series:
    """At most so many points: means of neighbours, where there are more."""
    if len(line.points) <= MOST_POINTS or line.intervals is not None:
        return line
    size = math.ceil(len(line.points) / MOST_POINTS)
    groups = [line.points[at : at + size] for at in range(0, len(line.points), size)]
    means = [(group[len(group) // 2][0], sum(y for _, y in group) / len(group)) for group in groups]
    return Series(name=line.name, points=means)


def _told(line: Series, number: Number) -> str:
    (first_x, first), (last_x, last) = line.points[0], line.points[-1]
    best_x, best = max(line.points, key=lambda point: point[1])
    return (
        f"{line.name}: {number(first)} at {first_x:,.6g}, {number(last)} at {last_x:,.6g},"
        f" highest {number(best)} at {best_x:,.6g}"
    )


def _line_rows(lines: Sequence[Series], number: Number) -> list[list[str]]:
    xs = sorted({x for line in lines for x, _ in line.points})
    step = math.ceil(len(xs) / TABLE_ROWS)
    values = [dict(line.points) for line in lines]
    return [
        [f"{x:,.6g}", *(number(known[x]) if x in known else "" for known in values)]
        for place, x in enumerate(xs)
        if place % step == 0 or place == len(xs) - 1
    ]
