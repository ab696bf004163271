"""Charts: everything lies within the drawing, axes have round ends, figures stand beside it."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ec.report.charts import HEIGHT, MOST_POINTS, WIDTH, Series, bar_chart, line_chart
from r2ec.report.sections import count, plain, share, small

values = st.floats(-1e9, 1e9, allow_nan=False).map(lambda value: round(value, 6))


@given(st.lists(values, min_size=1, max_size=400), st.integers(1, 1000))
def test_every_line_lies_within_the_drawing(ys: list[float], stride: int) -> None:
    points = [(float(number * stride), y) for number, y in enumerate(ys)]
    chart = line_chart("t", [Series(name="a", points=points)], x_label="x", number=plain)
    assert chart is not None
    pairs = [pair.split() for pair in chart.lines[0].path[1:].split(" L")]
    assert len(pairs) == len(ys) if len(ys) <= MOST_POINTS else len(pairs) <= MOST_POINTS
    for x, y in pairs:
        assert -0.1 <= float(x) <= WIDTH
        assert -0.1 <= float(y) <= HEIGHT
    for tick in (*chart.x_ticks, *chart.y_ticks):
        assert -0.1 <= tick.at <= WIDTH
    assert 2 <= len(chart.y_ticks) <= 8
    assert len(chart.rows) <= 27


def test_an_axis_of_shares_begins_at_nought_and_has_short_labels() -> None:
    series = [Series(name="a", points=[(0, 0.0), (1, 0.0)])]
    chart = line_chart("t", series, x_label="step", number=share)
    assert chart is not None
    assert chart.y_ticks[0].label == "0 %"
    series = [Series(name="a", points=[(0, 0.01), (1, 0.15)])]
    chart = line_chart("t", series, x_label="step", number=small)
    assert chart is not None
    assert [tick.label for tick in chart.y_ticks] == ["0", "0.05", "0.1", "0.15"]


def test_a_chart_tells_its_figures_in_words_and_as_a_table() -> None:
    series = [
        Series(name="a", points=[(0, 1.0), (5, 3.0), (9, 2.0)]),
        Series(name="b", points=[(5, 0.5)]),
        Series(name="none", points=[]),
    ]
    chart = line_chart("t", series, x_label="step", number=plain)
    assert chart is not None
    assert chart.summary == (
        "a: 1 at 0, 2 at 9, highest 3 at 5. b: 0.5 at 5, 0.5 at 5, highest 0.5 at 5"
    )
    assert chart.header == ["step", "a", "b"]
    assert chart.rows == [["0", "1", ""], ["5", "3", "0.5"], ["9", "2", ""]]


def test_intervals_are_drawn_from_end_to_end() -> None:
    line = Series(name="a", points=[(0, 0.5), (8, 0.6)], intervals=[(0.4, 0.6), (0.5, 0.7)])
    chart = line_chart("t", [line], x_label="x", number=small)
    assert chart is not None
    for (x, y), (whisker_x, top, bottom) in zip(
        chart.lines[0].dots, chart.lines[0].whiskers, strict=True
    ):
        assert x == whisker_x
        assert top < y < bottom


def test_no_points_make_no_chart() -> None:
    assert line_chart("t", [Series(name="a", points=[])], x_label="x", number=small) is None
    assert bar_chart("t", [], [("a", [])], x_label="x", number=small) is None


def test_bars_stand_on_the_axis_as_high_as_their_values() -> None:
    chart = bar_chart(
        "t", ["one", "two"], [("a", [2.0, 4.0]), ("b", [0.0, 1.0])], x_label="x", number=plain
    )
    assert chart is not None
    heights = [bar.height for bar in chart.bars]
    assert math.isclose(heights[1], 2 * heights[0], abs_tol=0.2)
    assert heights[2] == 0
    assert len({round(bar.y + bar.height, 1) for bar in chart.bars}) == 1
    assert chart.summary == "a: largest 4 at two. b: largest 1 at two"
    spans = sorted((bar.x, bar.x + bar.width) for bar in chart.bars)
    assert all(one[1] <= other[0] + 0.1 for one, other in itertools.pairwise(spans))


@given(
    st.lists(st.floats(0, 1e10, allow_nan=False), min_size=1, max_size=9),
    st.sampled_from([1.0, 1e-3, 1e-5]),
    st.sampled_from([count, plain, share, small]),
)
def test_no_two_ticks_have_one_label_and_each_fits_beside_the_axis(ys, scale, number) -> None:
    values = [round(y * scale, 5) for y in ys]
    if number in (share, small):
        values = [value / 1e10 for value in values]
    elif number is count:
        values = [float(round(value)) for value in values]
    chart = bar_chart("t", [str(at) for at in values], [("a", values)], x_label="x", number=number)
    assert chart is not None
    labels = [tick.label for tick in chart.y_ticks]
    assert len(set(labels)) == len(labels) >= 2
    assert all(len(label) <= 13 for label in labels)


@pytest.mark.parametrize(
    ("value", "number", "labels"),
    [
        (1.0, count, ["0", "1"]),
        (3.0, count, ["0", "1", "2", "3"]),
        (1.0, share, ["0 %", "25 %", "50 %", "75 %", "100 %"]),
        (1.0, small, ["0", "0.25", "0.5", "0.75", "1"]),
        (0.0016, share, ["0 %", "0.05 %", "0.1 %", "0.15 %", "0.2 %"]),
        (0.0002, small, ["0", "0.00005", "0.0001", "0.00015", "0.0002"]),
        (12_345_678.0, count, ["0 M", "5 M", "10 M", "15 M"]),
    ],
)
def test_an_axis_tells_few_users_small_shares_and_many_users_alike(value, number, labels) -> None:
    chart = bar_chart("t", ["a"], [("a", [value])], x_label="x", number=number)
    assert chart is not None
    assert [tick.label for tick in chart.y_ticks] == labels


def test_steps_are_marked_by_whole_numbers() -> None:
    points = [(1.0, 0.5), (2.0, 0.7)]
    chart = line_chart("t", [Series(name="a", points=points)], x_label="step", number=small)
    assert chart is not None
    assert [tick.label for tick in chart.x_ticks] == ["1", "2"]


def test_a_single_step_is_marked_by_its_own_number_alone() -> None:
    chart = line_chart("t", [Series(name="a", points=[(0, 0.1)])], x_label="step", number=small)
    assert chart is not None
    assert [tick.label for tick in chart.x_ticks] == ["0"]


def test_small_shares_keep_two_digits() -> None:
    assert [share(value) for value in (0.0, 0.0016, 0.25, 1.0)] == [
        *("0.0 %", "0.16 %", "25.0 %", "100.0 %")
    ]
