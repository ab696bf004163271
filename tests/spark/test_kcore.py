from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ec.etl.chunks import COLUMNS, Chunk, read_chunks
from r2ec.etl.kcore import Core, k_core
from r2ec.etl.ordered_log import pack_log

pytestmark = pytest.mark.spark


def chain(length):
    """Users and items in a row, each item in two baskets but the ends: it comes apart slowly."""
    return [(f"U{n:02d}", item) for n in range(length) for item in (n, n + 1)]


CIRCLE = [(f"V{n}", 100 + (n + step) % 3) for n in range(3) for step in (0, 1)]


@pytest.mark.parametrize(
    ("users", "items", "wanted"),
    [
        (2, 2, CIRCLE),
        (1, 1, [*chain(9), *CIRCLE]),
        (3, 1, []),
        (1, 2, [*chain(9)[1:-1], *CIRCLE]),
        (2, 1, [*chain(9), *CIRCLE]),
    ],
)
def test_the_core_is_the_fixed_point_however_many_rounds_it_takes(spark, users, items, wanted):
    packed = pack(spark, [*chain(9), *CIRCLE])
    core, num_items = k_core(packed, 103, min_user_events=users, min_item_events=items)
    assert kept(packed, core) == sorted(wanted)
    assert num_items == len({item for _, item in wanted})


def test_rounds_go_on_while_a_single_item_is_lost(spark):
    # Fastened to the circle at one end, the chain comes apart from the other, an item a round.
    packed = pack(spark, [*chain(5), ("V0", 5), *CIRCLE])
    core, num_items = k_core(packed, 103, min_user_events=2, min_item_events=2)
    assert kept(packed, core) == sorted(CIRCLE)
    assert num_items == 3


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_a_core_of_chunks_is_that_of_the_definition(events, users, items):
    """The rounds without Spark: one chunk, the bits as the driver would send them."""
    rows = sorted((f"U{user}", item) for user, item in events)
    wanted = rows
    while True:
        by_user, by_item = Counter(u for u, _ in wanted), Counter(i for _, i in wanted)
        left = [(u, i) for u, i in wanted if by_user[u] >= users and by_item[i] >= items]
        if len(left) == len(wanted):
            break
        wanted = left
    bits = bytearray(2)
    for _, item in wanted:
        bits[item >> 3] |= 1 << (item & 7)
    core = Core(min_user_events=users, item_bits=bytes(bits))
    assert pairs(core.of(make_chunk(rows))) == wanted


def pack(spark, events):
    rows = [(user, item, 5.0, 1, n, None, None) for n, (user, item) in enumerate(events)]
    schema = "user_id string, item_index long, rating float, time long, place long"
    return pack_log(spark.createDataFrame(rows, f"{schema}, line string, reason string"), [])


def kept(packed, core):
    chunks = read_chunks(packed.select(*COLUMNS).toArrow().to_batches())
    return sorted(pair for chunk in chunks for pair in pairs(core.of(chunk)))


def pairs(chunk):
    users = chunk.per_event(chunk.user_id)
    return list(zip(users.to_pylist(), chunk.item_index.to_pylist(), strict=True))


def make_chunk(rows):
    counts = Counter(user for user, _ in rows)
    num_rows = len(rows)
    return Chunk(
        user_id=pa.array(list(counts), pa.string()),
        num_events=pa.array(list(counts.values()), pa.int32()),
        item_index=pa.array([item for _, item in rows], pa.int64()),
        time=pa.array(range(num_rows), pa.int64()),
        rating=pa.nulls(num_rows, pa.float32()),
        place=pa.array(range(num_rows), pa.int64()),
    )
