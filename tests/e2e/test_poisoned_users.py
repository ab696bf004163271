"""Users whose data breaks one stage of scoring become rows with a reason; the others go on."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM

from r2ec import schemas
from r2ec.catalog import Catalog
from r2ec.model.card import load_card
from r2ec.storage import Warehouse
from r2ec.text.prompts import DAY
from tests.factories.commands import cli
from tests.factories.models import examples_of, save_small_model, small_catalog
from tests.factories.shop import DATE, write_catalog, write_shop

pytestmark = pytest.mark.e2e

TABLES = (schemas.RECOMMENDATIONS, schemas.REASONING)
NUM_USERS = 16
# Titles of single items, which only poisoned users have bought.
TOO_LONG, NOT_FINITE, BEYOND = 30, 31, 32
TITLES = {TOO_LONG: "𒀀" * 60, NOT_FINITE: "ink ÿ", BEYOND: "ink ß"}
REASONS = {
    "u100": "history_item_index is null",
    "u101": "history_time is null or holds a null",
    "u102": "history_rating 3",
    "u103": "item_index 10000",
    "u104": "item_index -1",
    "u105": "one item alone makes a prompt of",
    "u106": "the user state is not finite",
    "u107": "token 5000 of the prompt is none of the model's 420",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with embeddings of all items, and a model that three of them break."""
    place = tmp_path_factory.mktemp("poisoned")
    catalog = write_shop(str(place / "warehouse"), num_users=2, num_items=33)
    items = [replace(item, title=TITLES.get(item.item_index, item.title)) for item in catalog.items]
    catalog = Catalog.of(catalog.version, items)
    write_catalog(Warehouse(str(place / "warehouse")), catalog)
    save_small_model(place / "model", catalog)
    assert cli("embed", "--warehouse", place / "warehouse", "--model", place / "model") == 0
    before = load_card(str(place / "model")).fingerprint
    poison_model(place / "model")
    # The rows of the items stay those of before: it is the users that are to be poisoned.
    rows = place / "warehouse" / "item_embeddings"
    after = load_card(str(place / "model")).fingerprint
    (rows / f"model={before}").rename(rows / f"model={after}")
    return place


def poison_model(folder: Path) -> None:
    """Shorter prompts, a token whose row is not a number, one beyond the model's table."""
    card = json.loads((folder / "r2ec.json").read_text())
    card["prompt"]["max_prompt_tokens"] = 180
    del card["fingerprint"]
    (folder / "r2ec.json").write_text(json.dumps(card))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]  # bytes as characters: ÿ is Ã ¿, ß is Ã Ł
    row = vocabulary["¿"]
    vocabulary["Ł"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.get_input_embeddings().weight[row] = float("nan")
    model.save_pretrained(folder)


def healthy() -> list[dict[str, object]]:
    """Histories that name none of the poisoned items."""
    return [
        {
            "user_id": example.history.user_id,
            "history_item_index": list(example.history.item_index),
            "history_rating": list(example.history.rating),
            "history_time": list(example.history.time),
            "history_hash": example.history.history_hash,
        }
        for example in examples_of(small_catalog(30), NUM_USERS)
    ]


def poisoned() -> list[dict[str, object]]:
    lists: dict[str, tuple[object, object, object]] = {
        "u100": (None, [5.0], [DAY]),
        "u101": ([1], [5.0], [None]),
        "u102": ([1, 2], [5.0, 5.0, 5.0], [DAY, DAY]),
        "u103": ([1, 10_000], [5.0, None], [DAY, DAY]),
        "u104": ([-1], [5.0], [DAY]),
        "u105": ([TOO_LONG], [5.0], [DAY]),
        "u106": ([NOT_FINITE], [5.0], [DAY]),
        "u107": ([BEYOND], [5.0], [DAY]),
    }
    return [
        {
            "user_id": user,
            "history_item_index": items,
            "history_rating": ratings,
            "history_time": times,
            "history_hash": f"of {user}",
        }
        for user, (items, ratings, times) in lists.items()
    ]


def write(place: Path, rows: list[dict[str, object]], schema: pa.Schema) -> None:
    table = pa.Table.from_pylist(rows, schema=schema)
    Warehouse(str(place / "warehouse")).write_parquet(
        table, "histories", f"date={DATE}", "part-0.parquet"
    )


def score(place: Path, *more: object) -> int:
    at = ("--warehouse", place / "warehouse", "--model", place / "model", "--date", DATE)
    # Two at once and long reasonings: rows take the places of poisoned ones.
    return cli("score", *at, "--batch-rows", 2, "--reasoning-budget", 40, *more)


def rows_of(place: Path, table: schemas.Table) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = (
        Warehouse(str(place / "warehouse")).read_table(table, date=DATE).to_pylist()
    )
    return rows


def test_every_poisoned_user_is_told_by_the_reason_and_the_others_are_scored_as_without_them(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(place, healthy(), schemas.HISTORIES.schema)
    assert score(place) == 0
    lists, texts = (rows_of(place, table) for table in TABLES)
    write(place, healthy() + poisoned(), schemas.HISTORIES.schema)
    assert score(place) == 4
    message = capsys.readouterr().err
    assert f"8 of {NUM_USERS + 8} users of shard 0 failed, more than --max-error-share" in message
    assert "the first: user 'u100': history_item_index is null" in message
    assert score(place, "--max-error-share", 0.5) == 0
    reasons = rows_of(place, schemas.REASONING)
    failed = {row["user_id"]: str(row["error"]) for row in reasons if row["status"] == "error"}
    assert set(failed) == set(REASONS)
    for user, words in REASONS.items():
        assert words in failed[user], user
    assert [row for row in reasons if row["user_id"] not in REASONS] == texts
    ranked = rows_of(place, schemas.RECOMMENDATIONS)
    for row, other in zip(ranked, lists, strict=True):
        assert row == {**other, "score": pytest.approx(other["score"], abs=1e-4)}


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("user_id", None, "user_id"),
        ("history_hash", None, "history_hash"),
        ("user_id", "u000", "user 'u000' stands there more than once"),
    ],
)
def test_a_table_that_breaks_its_own_rules_is_refused_by_its_name(
    place: Path, column: str, value: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = healthy()
    rows[1][column] = value
    nullable = pa.schema([field.with_nullable(True) for field in schemas.HISTORIES.schema])
    write(place, rows, nullable)
    assert score(place) == 2
    message = capsys.readouterr().err
    assert f"date={DATE}" in message
    assert words in message
    assert "build_sequences.py" in message
