"""The hash of a history: which users are scored again hangs on it."""

import hashlib
import struct

import pyarrow as pa

from r2ec.etl.chunks import Chunk
from r2ec.etl.windows import history_rows

EVENTS = [(3, 4.0, 10), (1 << 40, None, 20), (5, 0.5, 30)]  # item, rating, time


def hash_of(events, *, before=()):
    """The hash of the last events of a user, after a user with those `before`."""
    rows = [*before, *events]
    chunk = Chunk(
        user_id=pa.array(["A", "B"] if before else ["B"]),
        num_events=pa.array([len(before), len(events)] if before else [len(events)], pa.int32()),
        item_index=pa.array([row[0] for row in rows], pa.int64()),
        rating=pa.array([row[1] for row in rows], pa.float32()),
        time=pa.array([row[2] for row in rows], pa.int64()),
        place=pa.array(range(len(rows)), pa.int64()),
    )
    (found,) = history_rows(chunk, until=100, window=3)
    return found["history_hash"][-1].as_py()


def test_it_is_that_of_all_items_then_ratings_then_times():
    items = struct.pack("<3q", 3, 1 << 40, 5)
    ratings = struct.pack("<3f", 4.0, float("nan"), 0.5)
    times = struct.pack("<3q", 10, 20, 30)
    assert hash_of(EVENTS) == hashlib.sha256(items + ratings + times).hexdigest()


def test_each_value_of_each_event_counts_and_nothing_else_does():
    found = {hash_of(EVENTS)}
    for place, event in enumerate(EVENTS):
        for field, value in enumerate((7, 1.5, event[2] + 1)):
            changed = (*event[:field], value, *event[field + 1 :])
            found.add(hash_of([*EVENTS[:place], changed, *EVENTS[place + 1 :]]))
    assert len(found) == 10
    assert hash_of(EVENTS, before=[(9, 1.0, 1), (9, None, 2)]) == hash_of(EVENTS)
    assert hash_of([(8, 1.0, 5), *EVENTS]) == hash_of(EVENTS)  # cut off by the window
