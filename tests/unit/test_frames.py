"""Frames of histories: what they may be, and what is wrong with them."""

from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pytest

from r2ec.errors import UsageError
from r2ec.infer.frames import frame_histories
from r2ec.infer.plan import end_of_day
from tests.factories.models import small_catalog

CATALOG = small_catalog()
DATE = "2024-05-31"
MAY = [datetime(2024, 5, day, tzinfo=UTC) for day in (1, 2)]
FRAME = {"user_id": ["u1"], "history_item_id": [["B0003", "B0001"]], "history_time": [MAY]}


def fault(**columns):
    (history,) = frame_histories(FRAME | columns, CATALOG, date=DATE)
    return history.fault


def test_ids_of_the_shop_become_indices_and_the_time_is_the_end_of_the_date():
    (history,) = frame_histories(FRAME, CATALOG, date=DATE)
    assert (history.user_id, history.item_index, history.rating) == ("u1", (3, 1), (None, None))
    assert history.time == tuple(int(moment.timestamp()) * 1_000_000 for moment in MAY)
    assert (history.now, history.fault) == (end_of_day(DATE), "")


def test_indices_ratings_and_whole_numbers_as_users_are_taken():
    columns = {"user_id": [7], "history_item_index": [[3, 1]], "history_time": [MAY]}
    ratings = {"history_rating": [[4.5, float("nan")]]}
    (history,) = frame_histories(columns | ratings, CATALOG, date=DATE)
    assert (history.user_id, history.item_index) == ("7", (3, 1))
    assert history.rating == (4.5, None)


def test_arrow_duckdb_and_pandas_frames_give_the_same_histories():
    expected = frame_histories(FRAME, CATALOG, date=DATE)
    table = pa.table(FRAME)
    frames = [table, table.to_reader(), duckdb.from_arrow(table)]
    naive = [[moment.replace(tzinfo=None) for moment in MAY]]
    frames.append(pa.table(FRAME | {"history_time": naive}))  # without a zone: UTC
    for frame in frames:
        assert frame_histories(frame, CATALOG, date=DATE) == expected


def test_a_pandas_frame_gives_the_same_histories():
    pandas = pytest.importorskip("pandas", reason="pandas is no dependency of ours")
    expected = frame_histories(FRAME, CATALOG, date=DATE)
    assert frame_histories(pandas.DataFrame(FRAME), CATALOG, date=DATE) == expected


def test_a_history_that_is_no_good_says_why_and_the_frame_is_read_all_the_same():
    assert fault(history_item_id=[["B0003", "NEW"]]) == "item 'NEW' is not in the catalog"
    assert "oldest first" in fault(history_time=[MAY[::-1]])
    assert "after the date" in fault(history_time=[[MAY[0], datetime(2024, 6, 1, tzinfo=UTC)]])
    assert "not of one length" in fault(history_item_id=[["B0003"]])
    assert "null" in fault(history_item_id=pa.array([None], pa.list_(pa.string())))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({"user_id": ["u1"], "history_time": [MAY]}, "history_item_index and history_item_id"),
        (FRAME | {"history_item_index": [[3, 1]]}, "one of"),
        (FRAME | {"history_time": [[1714521600, 1714608000]]}, "make its values timestamps"),
        (FRAME | {"history_time": [["2024-05-01", "2024-05-02"]]}, "make its values timestamps"),
        (FRAME | {"history_item_id": ["B0003"]}, "column history_item_id is string"),
        ({name: values * 2 for name, values in FRAME.items()}, "user 'u1' twice"),
        (FRAME | {"user_id": pa.array([None], pa.string())}, "a row without user_id"),
        ("u1", "no frame"),
    ],
)
def test_frames_that_are_none_are_refused(frame, words):
    with pytest.raises(UsageError, match=words):
        frame_histories(frame, CATALOG, date=DATE)


def test_a_date_that_is_none_is_refused():
    with pytest.raises(UsageError, match="'tomorrow' is not a day"):
        frame_histories(FRAME, CATALOG, date="tomorrow")
