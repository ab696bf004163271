"""`score --changed-only`: what is carried over equals what a full run makes."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from r2ec import schemas
from r2ec.catalog import Catalog
from r2ec.infer.plan import end_of_day
from r2ec.storage import Warehouse
from r2ec.tables import History
from r2ec.text.prompts import DAY
from tests.factories.commands import cli
from tests.factories.models import examples_of, save_small_model
from tests.factories.shop import longer_catalog, write_catalog, write_histories, write_shop

pytestmark = pytest.mark.e2e

DAYS = ("2024-05-31", "2024-06-01", "2024-06-02")
TABLES = (schemas.RECOMMENDATIONS, schemas.REASONING)
NUM_USERS = 14
# Days since the events of some users, at the end of the first day: on the next two days those of
# user 4 read otherwise each time, those of user 5 never, those of user 7 once (`2 weeks ago`).
AGES = {4: 4, 5: 8, 7: 13}
BROKEN = "u006"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Catalog]:
    """A warehouse whose first day is published, one user of it with an error."""
    place = tmp_path_factory.mktemp("scored")
    catalog = write_shop(str(place / "warehouse"), num_users=2)
    save_small_model(place / "model", catalog)
    write_day(place, DAYS[0], first_day(catalog))
    assert cli("embed", "--warehouse", place / "warehouse", "--model", place / "model") == 0
    assert score(place, DAYS[0]) == 0
    return place, catalog


@pytest.fixture
def shop(scored: tuple[Path, Catalog], tmp_path: Path) -> tuple[Path, Catalog]:
    """A copy of it that the test may change."""
    shutil.copytree(scored[0], tmp_path / "shop")
    return tmp_path / "shop", scored[1]


def score(place: Path, day: str, *more: object) -> int:
    at = ("--warehouse", place / "warehouse", "--model", place / "model", "--date", day)
    return cli("score", *at, "--users-per-part", 4, "--max-error-share", 0.5, *more)


def write_day(place: Path, day: str, histories: Sequence[History]) -> None:
    write_histories(Warehouse(str(place / "warehouse")), histories, date=day)


def first_day(catalog: Catalog) -> list[History]:
    """Users whose events lie a month back or, of some, days; one names items that are none."""
    end = end_of_day(DAYS[0])
    histories = []
    for number, example in enumerate(examples_of(catalog, NUM_USERS)):
        age = AGES.get(number, 40)
        times = tuple(end - age * DAY - 1 for _ in example.history.time)
        histories.append(replace(example.history, time=times))
    place = [history.user_id for history in histories].index(BROKEN)
    histories[place] = replace(histories[place], item_index=(9999,) * len(histories[place].time))
    return histories


def next_day(catalog: Catalog, day: str) -> list[History]:
    """The first user is gone, the second bought again, and there is a new one at either end."""
    histories = first_day(catalog)[1:]
    bought = histories[0]
    histories[0] = replace(
        bought,
        item_index=(*bought.item_index, 3),
        rating=(*bought.rating, 5.0),
        time=(*bought.time, end_of_day(day) - DAY),
        history_hash="one more event",
    )
    new = examples_of(catalog, 2, seed=8)
    ends = [
        replace(example.history, user_id=name, history_hash=f"of {name}")
        for name, example in zip(("a-new", "z-new"), new, strict=True)
    ]
    return [*ends, *histories]


def published(place: Path, day: str) -> list[pa.Table]:
    """What people see of a day, by user and rank."""
    warehouse = Warehouse(str(place / "warehouse"))
    return [
        warehouse.read_table(table, date=day).sort_by(
            [(name, "ascending") for name in ("user_id", "rank") if name in table.schema.names]
        )
        for table in TABLES
    ]


def with_status(place: Path, day: str, status: str) -> set[str]:
    reasons = published(place, day)[1]
    return set(reasons.filter(pc.equal(reasons["status"], status))["user_id"].to_pylist())


def run_of(place: Path, day: str) -> dict[str, object]:
    row: dict[str, object] = (
        Warehouse(str(place / "warehouse")).read_table(schemas.RUNS, date=day).to_pylist()[0]
    )
    return row


def assert_same_lists(one: list[pa.Table], other: list[pa.Table]) -> None:
    for a, b in zip(one, other, strict=True):
        names = [name for name in a.column_names if name not in ("score", "status")]
        assert a.select(names).equals(b.select(names))
    scores = [tables[0]["score"].to_numpy() for tables in (one, other)]
    assert abs(scores[0] - scores[1]).max() < 1e-4


@pytest.mark.parametrize("shards", [1, 3])
def test_unchanged_users_are_carried_over_and_the_day_equals_a_full_run(
    shop: tuple[Path, Catalog], tmp_path: Path, shards: int, capsys: pytest.CaptureFixture[str]
) -> None:
    place, catalog = shop
    old = {f"u{number:03d}" for number in range(NUM_USERS)} - {"u000", "u001", "u004", BROKEN}
    for day, expected in zip(DAYS[1:], (old - {"u007"}, old | {"a-new", "z-new"}), strict=True):
        write_day(place, day, next_day(catalog, DAYS[1]))
        full = tmp_path / f"full-{day}"
        shutil.copytree(place, full)
        assert score(full, day) == 0
        for shard in range(shards):
            more = ("--num-shards", shards, "--shard", shard, "--changed-only")
            assert score(place, day, *more) == 0
        printed = capsys.readouterr().out
        if shards > 1:
            assert cli("publish", "--warehouse", place / "warehouse", "--date", day) == 0
        assert_same_lists(published(place, day), published(full, day))
        assert with_status(full, day, "carried") == set()
        assert with_status(place, day, "carried") == expected
        assert with_status(place, day, "error") == {BROKEN}, "a failed user is tried again"
        run = run_of(place, day)
        assert run["num_carried"] == len(expected)
        if shards == 1:
            assert f"({len(expected)} carried over from" in printed
        rows = published(place, day)[1].to_pylist()
        made = [row for row in rows if row["status"] == "ok"]
        assert run["prompt_tokens"] == sum(row["prompt_tokens"] for row in made)
        assert run["reasoning_tokens"] == sum(row["reasoning_tokens"] for row in made)


def test_a_new_version_of_the_catalog_with_the_same_texts_is_no_change(
    shop: tuple[Path, Catalog],
) -> None:
    place, catalog = shop
    write_day(place, DAYS[1], first_day(catalog))
    write_catalog(Warehouse(str(place / "warehouse")), replace(catalog, version=DAYS[1]))
    assert score(place, DAYS[1], "--changed-only") == 0
    run = run_of(place, DAYS[1])
    assert (run["num_carried"], run["catalog_version"]) == (NUM_USERS - 3, DAYS[1])


def change_catalog(place: Path, catalog: Catalog) -> None:
    write_catalog(Warehouse(str(place / "warehouse")), longer_catalog(catalog, 2))


def change_model(place: Path, catalog: Catalog) -> None:
    save_small_model(place / "model", catalog, seed=1)


def remove_first_day(place: Path, catalog: Catalog) -> None:
    shutil.rmtree(place / "warehouse" / "runs")


def take_an_earlier_release(place: Path, catalog: Catalog) -> None:
    warehouse = Warehouse(str(place / "warehouse"))
    run = warehouse.read_table(schemas.RUNS, date=DAYS[0])
    old = run.drop_columns(list(schemas.RUNS.may_lack))
    warehouse.write_parquet(old, "runs", f"date={DAYS[0]}", "run.parquet")


@pytest.mark.parametrize(
    ("change", "option", "words"),
    [
        (None, ("--top-k", 9), "2024-05-31 was scored with other settings: top_k 10, now 9"),
        (None, ("--temperature", 0.5), "other settings: temperature 0.0, now 0.5"),
        (None, ("--exclude-stores", "Halmont"), "exclude_stores [], now ['Halmont']"),
        (change_catalog, (), "items or texts of the catalog changed since 2024-05-31"),
        (change_model, (), "2024-05-31 was scored with model"),
        (remove_first_day, (), "nothing is published before 2024-06-01"),
        (take_an_earlier_release, (), "not known with which settings 2024-05-31 was scored"),
    ],
)
def test_a_full_run_is_made_and_said_where_nothing_can_be_carried_over(
    shop: tuple[Path, Catalog],
    change: Callable[[Path, Catalog], None] | None,
    option: tuple[object, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, catalog = shop
    write_day(place, DAYS[1], next_day(catalog, DAYS[1]))
    if change is not None:
        change(place, catalog)
    assert score(place, DAYS[1], *option, "--dry-run") == 0
    full = capsys.readouterr().out.splitlines()[-1]
    assert score(place, DAYS[1], *option, "--dry-run", "--changed-only") == 0
    why, same = capsys.readouterr().out.splitlines()[-2:]
    assert words in why
    assert same == full, "the run is that of a full one, with its id"


def test_carrying_over_is_another_run_than_a_full_one_and_done_once(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, catalog = shop
    write_day(place, DAYS[1], first_day(catalog))
    assert score(place, DAYS[1], "--changed-only") == 0
    assert score(place, DAYS[1], "--changed-only") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert score(place, DAYS[1]) == 0
    assert run_of(place, DAYS[1])["num_carried"] == 0
    assert with_status(place, DAYS[1], "carried") == set()
