from collections import Counter
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2ec.errors import GateError
from r2ec.etl import increment_tasks
from r2ec.etl.chunks import Chunk
from r2ec.etl.history_merge import event_rows, history_subset
from r2ec.etl.history_state import HistoryState
from r2ec.etl.increment import Increment
from r2ec.etl.increment_job import check_rows
from r2ec.etl.increment_tasks import WrittenRows, ahead
from r2ec.etl.packing import first_of_equals
from r2ec.etl.windows import history_rows

DAY = 86_400_000_000
BASE, NEXT = 10 * DAY, 11 * DAY  # the ends of the base's day and of the day to add
NEXT_DAY = date(1970, 1, 11)
WINDOW = 3

# user, item, rating, quarter of a day: many ties, many exact duplicates.
events = st.tuples(
    st.integers(0, 5), st.integers(0, 3), st.sampled_from([1.0, None]), st.integers(0, 50)
)


def chunk_of(rows):
    """The log's chunk, exact duplicates dropped, of (user, item, rating, quarter) in file order."""
    placed = sorted((f"U{row[0]}", row[3], place, *row[1:3]) for place, row in enumerate(rows))
    counts = Counter(row[0] for row in placed)
    chunk = Chunk(
        user_id=pa.array(list(counts), pa.string()),
        num_events=pa.array(list(counts.values()), pa.int32()),
        time=pa.array([row[1] * DAY // 4 for row in placed], pa.int64()),
        place=pa.array([row[2] for row in placed], pa.int64()),
        item_index=pa.array([row[3] for row in placed], pa.int64()),
        rating=pa.array([row[4] for row in placed], pa.float32()),
    )
    is_first = first_of_equals(chunk)
    return chunk if is_first is None else chunk.where(is_first)


def histories(rows, until):
    found = pa.concat_tables([*history_rows(chunk_of(rows), until=until, window=WINDOW)])
    return found.sort_by("user_id")


def merged(folder, rows_of_base, new, batch_rows, monkeypatch):
    """What the task over the base's one file writes, its report, and the rows it says changed."""
    monkeypatch.setattr(increment_tasks, "BATCH_ROWS", batch_rows)
    (folder / "run" / "increment" / "events").mkdir(parents=True)
    pq.write_table(rows_of_base, folder / "base.parquet", row_group_size=4)
    pq.write_table(event_rows(chunk_of(new)), folder / "run/increment/events/part-0.parquet")
    task = increment_tasks._Merge(
        root=str(folder), staged=("run",), date=NEXT_DAY, window=WINDOW, num_groups=1
    )
    batch = pa.RecordBatch.from_pylist([{"task": 0, "paths": ["base.parquet"]}])
    (report,) = task.old_users([batch])
    return (
        pq.read_table(folder / "run" / "histories").drop(["date"]).sort_by("user_id"),
        report.to_pylist()[0],
        pq.read_table(folder / "run" / "increment" / "changed").drop(["date"]).sort_by("user_id")
        if any((folder / "run").glob("increment/changed/*/*"))
        else None,
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(events, min_size=1, max_size=25), st.lists(events, max_size=12), st.integers(1, 5))
def test_a_day_merged_into_histories_is_what_the_whole_log_gives(
    tmp_path_factory, old, new, batch_rows
):
    old = [(*row[:3], row[3] % 40) for row in old]
    base = histories(old, BASE)
    folder = tmp_path_factory.mktemp("merge")
    with pytest.MonkeyPatch.context() as patch:
        rows, report, changed = merged(folder, base, new or old[:1], batch_rows, patch)
    full = histories([*old, *new], NEXT)
    of_base = full.filter(pc.is_in(full["user_id"], value_set=base["user_id"]))
    assert rows.num_rows == report["num_rows"] == base.num_rows
    if not report["num_undecided"]:
        assert rows.to_pylist() == of_base.to_pylist()
    else:
        starts = {(r["user_id"], r["history_time"][0]) for r in base.to_pylist()}
        times = event_rows(chunk_of(new))
        stamps = times["time"].cast(pa.timestamp("us", "UTC")).to_pylist()
        assert starts & set(zip(times["user_id"].to_pylist(), stamps, strict=True))
    with_events = {f"U{row[0]}" for row in new or old[:1]}
    told = [] if changed is None else changed.to_pylist()
    assert told == [row for row in rows.to_pylist() if row["user_id"] in with_events]


def test_only_an_event_like_one_that_may_have_been_cut_off_is_undecided(tmp_path, monkeypatch):
    old = [(0, 0, 1.0, 4), (0, 1, 1.0, 4), (0, 2, 1.0, 8), (0, 3, 1.0, 12)]  # one too many

    def num_undecided(name, event):
        _, report, _ = merged(tmp_path / name, histories(old, BASE), [event], 5, monkeypatch)
        return report["num_undecided"]

    assert num_undecided("cut off", (0, 0, 1.0, 4)) == 1
    assert num_undecided("new, or cut off", (0, 1, None, 4)) == 1
    assert num_undecided("known", (0, 1, 1.0, 4)) == 0
    assert num_undecided("later", (0, 0, 1.0, 8)) == 0


def test_the_wanted_rows_of_histories_are_those_that_a_filter_gives():
    rows = histories([(n % 7, n % 3, None if n % 4 else 2.0, n) for n in range(30)], BASE)
    for part in (rows, rows.slice(2, 4), pa.concat_tables([rows.slice(3), rows.slice(0, 2)])):
        for wanted in ([True], [False], [True, False], [False, False, True]):
            mask = pa.array([wanted[n % len(wanted)] for n in range(part.num_rows)])
            assert history_subset(part, mask).to_pylist() == part.filter(mask).to_pylist()


def test_reading_ahead_gives_all_items_and_hands_errors_on():
    def three_then_fail():
        yield from (1, 2, 3)
        raise OSError("disk gone")

    assert list(ahead(iter([1, 2, 3]))) == [1, 2, 3]
    assert list(ahead(iter([]))) == []
    items = ahead(three_then_fail())
    assert [next(items) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(OSError, match="disk gone"):
        next(items)


def test_a_row_lost_from_the_base_stops_the_job():
    state = HistoryState(options="", window=WINDOW, num_items=1, num_unknown=0, files=())
    plan = Increment(base=date(1970, 1, 10), num_base_rows=7, state=state, files=[])
    check_rows(plan, WrittenRows(num_known=7, num_new=1))
    with pytest.raises(GateError, match="6 histories were made of the 7 of 1970-01-10"):
        check_rows(plan, WrittenRows(num_known=6, num_new=1))
