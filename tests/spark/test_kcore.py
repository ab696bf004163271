import pytest

from r2ec.etl.kcore import k_core
from r2ec.etl.staging import open_staging
from r2ec.storage import Warehouse

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
def test_the_core_is_the_fixed_point_however_many_rounds_it_takes(
    spark, tmp_path, users, items, wanted
):
    staging = open_staging(Warehouse(str(tmp_path)), "test")
    events = spark.createDataFrame([*chain(9), *CIRCLE], "user_id string, item_index long")
    core = k_core(events, staging, min_user_events=users, min_item_events=items)
    assert sorted((row["user_id"], row["item_index"]) for row in core.collect()) == sorted(wanted)
    staging.discard()
