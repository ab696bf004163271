"""Which split a target falls into, and what its history holds, without Spark."""

import pyarrow as pa
import pytest

from r2ec.etl.chunks import Chunk
from r2ec.etl.splits import SplitCuts, _reach
from r2ec.etl.windows import sequence_rows

TIMES = [1, 2, 2, 3, 5, 5, 6, 9]  # of one user, items 0 to 7
CUTS = SplitCuts(train_until=2, valid_until=5)


def rows_of(split, *, window=3, strict_time=False):
    """(target item, items of its history) of a split."""
    places = pa.array(range(len(TIMES)), pa.int64())
    chunk = Chunk(
        user_id=pa.array(["U"]),
        num_events=pa.array([len(TIMES)], pa.int32()),
        item_index=places,
        time=pa.array(TIMES, pa.int64()),
        rating=pa.nulls(len(TIMES), pa.float32()),
        place=places,
    )
    after, until = CUTS.bounds(split)
    tables = sequence_rows(chunk, window=window, strict_time=strict_time, after=after, until=until)
    rows = pa.concat_tables(tables).to_pylist()
    return [(row["target_item_index"], row["history_item_index"]) for row in rows]


def test_a_time_at_a_cut_belongs_to_the_split_before_it_alone():
    assert rows_of("train") == [(1, [0]), (2, [0, 1])]
    assert rows_of("valid") == [(3, [0, 1, 2]), (4, [1, 2, 3]), (5, [2, 3, 4])]
    assert rows_of("test") == [(6, [3, 4, 5]), (7, [4, 5, 6])]


def test_under_strict_time_events_at_the_targets_time_are_left_out():
    assert rows_of("train", strict_time=True) == [(1, [0]), (2, [0])]
    assert rows_of("valid", window=2, strict_time=True) == [(3, [1, 2]), (4, [2, 3]), (5, [2, 3])]


@pytest.mark.parametrize(
    ("share", "wanted"),
    [(0.5, (10, 0)), (3, (10, 0)), (3.1, (20, 3)), (8, (20, 3)), (9, (30, 8)), (10, (30, 8))],
)
def test_a_cut_is_the_first_time_at_which_the_share_is_reached(share, wanted):
    counts = [(10, 3), (20, 5), (30, 2)]
    assert _reach(counts, 0, share) == wanted
    assert _reach(counts, 4, share + 4) == (wanted[0], wanted[1] + 4)


def test_a_share_that_decimals_make_a_trifle_too_large_is_reached():
    assert _reach([(10, 9), (20, 1)], 0, (0.8 + 0.1) * 10 + 1e-9) == (10, 0)
