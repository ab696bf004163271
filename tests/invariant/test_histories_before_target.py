"""A history holds only events before its target; splits share no timestamp; nothing that was
learnt later, and no statistic of the whole period, is in what a prompt is made of."""

from collections import defaultdict

import pytest

from r2ec import schemas
from tests.factories.jobs import build_shop, read_rows, run_catalog
from tests.factories.logs import DAY_MS, FIRST_MS, make_items, make_log, make_shop, write_jsonl

pytestmark = pytest.mark.spark

ROWS = make_log(seed=11, users=30, items=14, events=500)


@pytest.fixture(scope="module")
def warehouse(spark, tmp_path_factory):
    return build_shop(spark, tmp_path_factory.mktemp("shop"), ROWS, "--window", 6)


def rows_by_split(warehouse):
    return {s: read_rows(warehouse, "sequences", f"split={s}") for s in schemas.SPLITS}


def all_rows(warehouse):
    return [row for rows in rows_by_split(warehouse).values() for row in rows]


def file_order(warehouse):
    """(user, item_index, time in ms) -> places of its first appearance in the log."""
    ids = {row["item_id"]: row["item_index"] for row in read_rows(warehouse, "catalog")}
    places = {}
    for place, (user, item, rating, time) in enumerate(ROWS):
        places.setdefault((user, ids[item], float(rating), int(time)), place)
    return places


def test_every_event_of_a_history_comes_before_its_target(warehouse):
    places = file_order(warehouse)
    rows = all_rows(warehouse)
    assert len(rows) > 300
    for row in rows:
        lists = (row["history_item_index"], row["history_rating"], row["history_time"])
        past = [
            (
                round(time.timestamp() * 1000),
                places[row["user_id"], i, r, round(time.timestamp() * 1000)],
            )
            for i, r, time in zip(*lists, strict=True)
        ]
        when = round(row["target_time"].timestamp() * 1000)
        target = (row["user_id"], row["target_item_index"], row["target_rating"], when)
        assert past == sorted(past)
        assert past[-1] < (when, places[target])


def test_the_target_itself_is_not_in_its_history_and_each_event_is_a_target_once(warehouse):
    targets = defaultdict(int)
    for row in all_rows(warehouse):
        lists = (row["history_item_index"], row["history_rating"], row["history_time"])
        target = (row["target_item_index"], row["target_rating"], row["target_time"])
        assert target not in list(zip(*lists, strict=True))
        targets[row["user_id"], *target] += 1
    assert set(targets.values()) == {1}


def test_the_splits_share_no_timestamp_and_follow_each_other(warehouse):
    times = {
        split: [row["target_time"] for row in rows]
        for split, rows in rows_by_split(warehouse).items()
    }
    assert all(times.values())
    assert max(times["train"]) < min(times["valid"])
    assert max(times["valid"]) < min(times["test"])
    # There are days with many targets: a cut by rows alone would have divided one.
    assert len(times["train"]) > len(set(times["train"]))


def test_events_after_a_time_change_no_sequence_up_to_it(spark, warehouse, tmp_path):
    cut = FIRST_MS + 25 * DAY_MS
    early = [row for row in ROWS if int(row[3]) <= cut]
    other = build_shop(spark, tmp_path, [*early, *changed_later(cut)], "--window", 6)
    assert up_to(other, cut) == up_to(warehouse, cut)
    assert len(up_to(warehouse, cut)) > 100


def changed_later(cut):
    """A later part of the log that has nothing to do with the one that was."""
    return [(u, i, "1.0", str(cut + DAY_MS)) for u, i, _, _ in make_log(seed=12, events=50)]


def up_to(warehouse, cut):
    ids = {row["item_index"]: row["item_id"] for row in read_rows(warehouse, "catalog")}
    return sorted(
        (
            row["user_id"],
            [ids[index] for index in row["history_item_index"]],
            row["history_rating"],
            row["history_time"],
            ids[row["target_item_index"]],
            row["target_time"],
        )
        for row in all_rows(warehouse)
        if row["target_time"].timestamp() * 1000 <= cut
    )


def test_lifetime_statistics_of_the_metadata_reach_no_table(spark, tmp_path):
    log, items = make_shop(tmp_path, ROWS)
    run_catalog(spark, tmp_path / "a", "--items", items, "--interactions", log)
    later = [
        {**item, "average_rating": 1.25, "rating_number": 987_654, "bought_together": ["B000"]}
        for item in make_items(ROWS)
    ]
    items = write_jsonl(tmp_path / "later.jsonl", later)
    run_catalog(spark, tmp_path / "b", "--items", items, "--interactions", log)
    before, after = (read_rows(tmp_path / name, "catalog") for name in "ab")
    assert before == after
    assert set(before[0]) == set(schemas.CATALOG.schema.names)
    assert not any("987654" in repr(row) or "1.25" in repr(row) for row in after)
