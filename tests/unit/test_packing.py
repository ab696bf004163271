import json
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ec.etl import packing
from r2ec.etl.chunks import read_chunks
from r2ec.etl.packing import OUTSIDE_WINDOW, packer, unpack_rejected

SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_index", pa.int64()),
        ("rating", pa.float32()),
        ("time", pa.int64()),
        ("place", pa.int64()),
        ("line", pa.string()),
        ("reason", pa.string()),
        ("user_hash", pa.int64()),
    ]
)
DAY = 86_400_000_000


def event(user, item, time, place, rating=5.0, user_hash=None):
    found = sum(map(ord, user)) if user_hash is None else user_hash
    return (user, item, rating, time, place, f"line {place}", None, found)


def rejected(place, reason="bad_time"):
    return (None, None, None, None, place, f"line {place}", reason, None)


def pack(rows, *, batch_rows=3, robots=None, order=()):
    """Pack rows as a partition would hold them: by hash, rows without one first."""
    rows = sorted(rows, key=lambda row: (row[7] is not None, row[7] or 0))
    columns = zip(*rows, strict=True) if rows else [[] for _ in SCHEMA]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], SCHEMA)
    batches = table.to_batches(max_chunksize=batch_rows)
    return list(packer(list(order), robots)(batches))


def events(packed):
    """(user, item, time, place, rating) of all chunks, in their order."""
    found = []
    for chunk in read_chunks(packed):
        users = chunk.per_event(chunk.user_id).to_pylist()
        columns = (chunk.item_index, chunk.time, chunk.place, chunk.rating)
        found += zip(users, *(column.to_pylist() for column in columns), strict=True)
    return found


def left_out(packed):
    total = Counter()
    for batch in packed:
        for text in batch.column("reasons").to_pylist():
            total.update(json.loads(text))
    return total


def lines_of(packed):
    told = [b.filter(b.column("rejected").is_valid()).select(["rejected"]) for b in packed]
    tables = [pa.Table.from_batches([batch]) for batch in unpack_rejected(told)]
    return pa.concat_tables(tables).to_pylist() if tables else []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["U", "V", "W", "XY", "YX"]),  # the last two share a hash
            st.integers(0, 2),
            st.integers(1, 3),
            st.sampled_from([None, 1.0, 5.0]),
        ),
        max_size=40,
    ),
    st.integers(1, 7),
    st.integers(1, 12),
)
def test_a_log_is_packed_in_its_order_without_its_exact_duplicates(rows, batch_rows, chunk_events):
    log = [event(u, i, t, place, rating) for place, (u, i, t, rating) in enumerate(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "CHUNK_EVENTS", chunk_events)
        packed = pack(log, batch_rows=batch_rows)
    first = {}
    for user, item, rating, time, place, *_ in log:
        first.setdefault((user, item, time, rating), place)
    wanted = sorted((u, t, place, i, r) for (u, i, t, r), place in first.items())
    found = events(packed)
    assert sorted((u, t, place, i, r) for u, i, t, place, r in found) == wanted
    for user in {row[0] for row in found}:
        own = [(time, place) for u, _, time, place, _ in found if u == user]
        assert own == sorted(own)
    of_user = [[u for u, *_ in events([batch])] for batch in packed]
    assert sum(len(set(users)) for users in of_user) == len({row[0] for row in found})
    duplicates = sum(sum(batch.column("num_duplicates").to_pylist()) for batch in packed)
    assert duplicates == len(log) - len(wanted)


def test_chunks_hold_whole_users_and_about_as_many_events_as_they_should(monkeypatch):
    monkeypatch.setattr(packing, "CHUNK_EVENTS", 10)
    giant = [event("A", 0, time, time, user_hash=5) for time in range(1, 38)]
    others = [event(f"U{n}", 0, 1, 100 + n, user_hash=10 + n) for n in range(25)]
    broken = [rejected(1000 + n) for n in range(25)]
    packed = pack([*giant, *others, *broken], batch_rows=4)
    sizes = [batch.column("size").to_pylist()[0] for batch in packed]
    assert sum(sizes) == 62
    assert max(sizes) < 37 + 10
    assert left_out(packed) == {"bad_time": 25}
    # A log of nothing but broken rows does not pile up in memory either.
    assert len(pack(broken, batch_rows=4)) > 1


def test_rejected_rows_keep_their_lines_and_those_outside_the_window_are_only_counted():
    rows = [
        rejected(7),
        rejected(3, "missing_user"),
        rejected(5, OUTSIDE_WINDOW),
        event("U", 0, 1, 1),
    ]
    packed = pack(rows)
    assert left_out(packed) == {"bad_time": 1, "missing_user": 1, OUTSIDE_WINDOW: 1}
    told = sorted((row["place"], row["line"], row["reason"]) for row in lines_of(packed))
    assert told == [(3, "line 3", "missing_user"), (7, "line 7", "bad_time")]


def test_a_user_with_too_many_events_on_one_day_is_a_robot_duplicates_not_counted():
    busy = [event("R", n, DAY + n, n) for n in range(4)]
    spread = [event("S", n, DAY * n + 1, 10 + n) for n in range(4)]
    repeated = [event("T", 0, DAY + 1, 20 + n) for n in range(4)]
    packed = pack([*busy, *spread, *repeated], robots=3)
    assert {row[0] for row in events(packed)} == {"S", "T"}
    assert left_out(packed) == {"robot": 4}
    assert [row["line"] for row in lines_of(packed)] == [f"line {n}" for n in range(4)]
    assert {row[0] for row in events(pack([*busy, *spread, *repeated], robots=4))} == {
        "R",
        "S",
        "T",
    }


def test_columns_of_the_order_come_between_time_and_place(monkeypatch):
    schema = SCHEMA.append(pa.field("order_number", pa.float64()))
    numbers = {1: 2.0, 2: 1.0, 3: None}
    rows = [(*event("U", place, 1, place), number) for place, number in numbers.items()]
    columns = zip(*rows, strict=True)
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)
    packed = list(packer(["order_number"], None)(table.to_batches()))
    assert [place for _, _, _, place, _ in events(packed)] == [2, 1, 3]
