"""Rows of a published run, asked for by stretches of users."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ec.catalog import CatalogItem
from r2ec.errors import R2ecError
from r2ec.infer.carry import CarrySource, PublishedRows
from r2ec.infer.plan import end_of_day, shard_of
from r2ec.infer.publish import publish
from r2ec.storage import Warehouse
from r2ec.tables import History
from r2ec.text.prompts import DAY, PromptTemplate, reads_the_same, user_prompt
from tests.factories.scored import (
    DATE,
    history_hash,
    plan_of,
    score_run,
    score_shard,
    users_of,
    write_histories,
)

NUM_USERS = 40


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(str(tmp_path / "warehouse"))


def source_of(warehouse: Warehouse, *, failed: tuple[str, ...] = ()) -> CarrySource:
    """A published run of three shards."""
    users = write_histories(warehouse, NUM_USERS)
    plan = plan_of(warehouse, num_shards=3)
    for shard in range(3):
        score_shard(warehouse, plan, shard, users, failed=failed)
    publish(warehouse, DATE)
    return CarrySource(date=DATE, run_id=plan.run_id, num_shards=3)


def histories(names: list[str], *, salt: str = "") -> list[History]:
    """The users on the day after, with nothing bought within the year."""
    return [
        History(
            user_id=name,
            item_index=(0,),
            rating=(None,),
            time=(0,),
            now=end_of_day(DATE) + DAY,
            history_hash=history_hash(name, salt),
        )
        for name in names
    ]


def carried(
    rows: PublishedRows, users: list[History], size: int
) -> Iterator[tuple[pa.Table, pa.Table]]:
    for start in range(0, len(users), size):
        found = rows.unchanged(users[start : start + size], 20)
        if found is not None:
            yield found


@pytest.mark.parametrize("size", [1, 4, 11, NUM_USERS])
def test_every_stretch_finds_its_users_once_however_the_run_was_cut(
    warehouse: Warehouse, size: int
) -> None:
    source = source_of(warehouse, failed=("u0007",))
    names = [user.user_id for user in users_of(NUM_USERS)]
    for shard, asked in (
        (None, names[5:30]),
        (None, ["a-new", *names[::3], "z-new"]),
        (1, [name for name in names if shard_of(name, 3) == 1]),
    ):
        rows = PublishedRows(warehouse, source, shard)
        parts = list(carried(rows, histories(asked), size))
        ranked, reasons = (pa.concat_tables(part) for part in zip(*parts, strict=True))
        expected = [name for name in asked if name in names and name != "u0007"]
        assert sorted(reasons["user_id"].to_pylist()) == expected
        assert reasons["status"].unique().to_pylist() == ["carried"]
        for name in expected:
            rows_of = [row for row in ranked.to_pylist() if row["user_id"] == name]
            assert [row["rank"] for row in rows_of] == [1, 2, 3]


def test_other_histories_are_not_carried_over(warehouse: Warehouse) -> None:
    source = source_of(warehouse)
    names = [user.user_id for user in users_of(NUM_USERS)]
    rows = PublishedRows(warehouse, source, None)
    assert rows.unchanged(histories(names, salt="one more event"), 20) is None


def test_a_run_replaced_while_it_is_carried_over_is_told(warehouse: Warehouse) -> None:
    source = source_of(warehouse)
    rows = PublishedRows(warehouse, source, None)
    score_run(warehouse, users_of(NUM_USERS), model="b" * 12)
    publish(warehouse, DATE)
    with pytest.raises(R2ecError, match=f"run {source.run_id} of {DATE}.* was replaced"):
        rows.unchanged(histories(["u0001"]), 20)


ITEM = CatalogItem(
    item_index=0,
    item_id="B0",
    title="red ink",
    description="",
    category="",
    store="",
    price=None,
    text_hash="",
)


@given(
    days=st.lists(st.integers(0, 800), min_size=1, max_size=4),
    later=st.integers(0, 40),
    history_items=st.integers(1, 4),
)
def test_a_prompt_reads_the_same_on_two_days_exactly_when_it_is_said_to(
    days: list[int], later: int, history_items: int
) -> None:
    first = 900 * DAY
    history = History(
        user_id="u",
        item_index=(0,) * len(days),
        rating=(None,) * len(days),
        time=tuple(sorted(first - day * DAY for day in days)),
        now=first,
    )
    template = PromptTemplate(
        marker="<answer>",
        forbidden=(),
        history_items=history_items,
        title_chars=20,
        description_chars=0,
    )
    items = [ITEM] * len(days)
    on_the_later = replace(history, now=first + later * DAY)
    prompts = [user_prompt(template, day, items) for day in (history, on_the_later)]
    assert reads_the_same(on_the_later, first, history_items) == (prompts[0] == prompts[1])
