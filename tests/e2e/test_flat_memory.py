"""Memory is flat in the number of users: parts are read, scored, written and let go."""

import gc
import os
from pathlib import Path

import pytest

from r2ec import schemas
from r2ec.infer.publish import publish
from r2ec.infer.score import plan_shard, score_shard
from r2ec.infer.settings import ScoreSettings
from r2ec.sampler import Completion
from r2ec.storage import Warehouse
from r2ec.tables import History
from tests.factories.commands import cli
from tests.factories.models import examples_of, save_small_model, small_catalog
from tests.factories.shop import DATE, write_catalog, write_histories

pytestmark = pytest.mark.e2e

NUM_USERS = 3000
USERS_PER_PART = 30
# A part leaves its line in the manifest; a user kept by mistake is kilobytes of ids, state, rows.
MOST_BYTES_PER_USER = 1000


def resident_bytes() -> int:
    """What this process holds in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def num_alive(kind: type) -> int:
    """How many objects of a class there are."""
    return sum(type(thing) is kind for thing in gc.get_objects())


def test_users_that_are_scored_leave_nothing_in_memory(tmp_path: Path) -> None:
    """After the first third, when all buffers and caches are as large as they become."""
    catalog, warehouse = small_catalog(), Warehouse(str(tmp_path / "warehouse"))
    save_small_model(tmp_path / "model", catalog)
    write_catalog(warehouse, catalog)
    write_histories(warehouse, [e.history for e in examples_of(catalog, NUM_USERS)])
    assert cli("embed", "--warehouse", warehouse.root, "--model", tmp_path / "model") == 0
    job = plan_shard(
        warehouse,
        str(tmp_path / "model"),
        ScoreSettings(reasoning_budget=3),
        date=DATE,
        shard=0,
        num_shards=1,
        users_per_part=USERS_PER_PART,
        batch_rows=USERS_PER_PART,
    )
    num_parts = NUM_USERS // USERS_PER_PART
    held: list[int] = []
    alive: list[int] = []

    def measure(num_users: int) -> None:
        held.append(resident_bytes())
        if len(held) == num_parts:
            alive.extend((num_alive(History), num_alive(Completion)))

    score_shard(
        job,
        max_error_share=0,
        device="cpu",
        report=measure,
        stopping=lambda: False,
    )
    assert len(held) == num_parts
    grown = held[-1] - held[num_parts // 3]
    assert grown < MOST_BYTES_PER_USER * NUM_USERS * 2 / 3, f"{held[::10]}"
    # Those of some parts in hand, and the rows that are read at once.
    assert max(alive) < 6 * USERS_PER_PART + 512, alive
    assert publish(warehouse, DATE).num_users == NUM_USERS
    assert len(warehouse.list_files("reasoning", f"date={DATE}")) == num_parts
    assert warehouse.read_table(schemas.RUNS).num_rows == 1
