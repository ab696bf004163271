"""Item rows: only new texts are encoded, an ended run goes on, a row is that of its model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from r2ec.catalog import Catalog
from r2ec.infer import embed
from r2ec.infer.embed import embed_catalog, load_embeddings
from r2ec.model.card import load_card
from r2ec.storage import Warehouse
from tests.factories.commands import cli
from tests.factories.models import save_small_model
from tests.factories.shop import DATE, write_catalog, write_shop

pytestmark = pytest.mark.e2e

FILE_ITEMS = 5
HIDDEN = 32


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Path, Catalog]:
    """A warehouse of 30 items, and a model of random weights that knows them."""
    catalog = write_shop(str(tmp_path / "warehouse"))
    save_small_model(tmp_path / "model", catalog)
    return tmp_path, catalog


def embed_shop(place: Path, *more: object) -> int:
    return cli("embed", "--warehouse", place / "warehouse", "--model", place / "model", *more)


def rows_of(place: Path, catalog: Catalog) -> torch.Tensor:
    model = load_card(str(place / "model")).fingerprint
    return load_embeddings(Warehouse(str(place / "warehouse")), model, catalog)


def test_an_item_whose_text_changed_is_encoded_anew_and_no_other(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, catalog = shop
    assert embed_shop(place) == 0
    before_IH = rows_of(place, catalog)
    changed = [replace(catalog.items[7], title="another lens", text_hash="hash of another lens")]
    later = Catalog.of("2024-06-30", (*catalog.items[:7], *changed, *catalog.items[8:]))
    write_catalog(Warehouse(str(place / "warehouse")), later)
    assert embed_shop(place) == 0
    assert "1 encoded, 29 kept" in capsys.readouterr().out
    moved = (rows_of(place, later) != before_IH).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [7]


def test_a_run_that_was_ended_keeps_the_files_it_wrote(
    shop: tuple[Path, Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, catalog = shop
    warehouse = Warehouse(str(place / "warehouse"))
    monkeypatch.setattr(embed, "_FILE_BYTES", FILE_ITEMS * 4 * HIDDEN)
    assert embed_shop(place) == 0
    whole_IH = rows_of(place, catalog)
    warehouse.remove_dir("item_embeddings")

    def report(num_encoded: int) -> None:
        nonlocal encoded
        encoded += num_encoded
        if encoded == 4 * FILE_ITEMS:  # encoded, and not written yet
            raise KeyboardInterrupt

    encoded = 0
    with pytest.raises(KeyboardInterrupt):
        embed_catalog(warehouse, str(place / "model"), None, report=report)
    again = embed_catalog(warehouse, str(place / "model"), None)
    assert (again.num_encoded, again.num_kept) == (30 - 3 * FILE_ITEMS, 3 * FILE_ITEMS)
    assert torch.equal(rows_of(place, catalog), whole_IH)


def break_items(model: Path) -> None:
    """Make the word of one byte, which a single title has, not a number."""
    causal_lm = AutoModelForCausalLM.from_pretrained(model)
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    with torch.no_grad():
        causal_lm.get_input_embeddings().weight[vocabulary["¿"]] = float("nan")
    causal_lm.save_pretrained(model)
    forget_fingerprint(model)


def forget_fingerprint(model: Path) -> None:
    card = json.loads((model / "r2ec.json").read_text())
    del card["fingerprint"]
    (model / "r2ec.json").write_text(json.dumps(card))


def test_an_item_of_which_the_model_makes_no_number_is_named_before_anyone_is_scored(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, catalog = shop
    items = (*catalog.items[:3], replace(catalog.items[3], title="ink ÿ"), *catalog.items[4:])
    write_catalog(Warehouse(str(place / "warehouse")), Catalog.of("2024-05-31", items))
    break_items(place / "model")
    assert embed_shop(place) == 1
    assert "no finite row of item 'B0003' (1 such items)" in capsys.readouterr().err


def other_weights(model: Path) -> None:
    causal_lm = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        causal_lm.get_input_embeddings().weight.mul_(1.5)
    causal_lm.save_pretrained(model)


def other_template(model: Path) -> None:
    file = model / "chat_template.jinja"
    file.write_text("Be brief. " + file.read_text())


def other_temperature(model: Path) -> None:
    card = json.loads((model / "r2ec.json").read_text())
    (model / "r2ec.json").write_text(json.dumps(card | {"tau": 0.5}))


def other_end(model: Path) -> None:
    file = model / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": [2, 77]}))


@pytest.mark.parametrize("change", [other_weights, other_template, other_temperature, other_end])
def test_rows_of_a_model_are_not_taken_for_those_of_another_in_its_folder(
    shop: tuple[Path, Catalog],
    change: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, _ = shop
    assert embed_shop(place) == 0
    capsys.readouterr()
    change(place / "model")
    at = ("--warehouse", place / "warehouse", "--model", place / "model")
    assert embed_shop(place) == 2
    assert cli("score", *at, "--date", DATE) == 2
    assert cli("evaluate", *at, "--split", "valid") == 2
    for line in capsys.readouterr().err.strip().splitlines():
        assert "are not those that r2ec.json was written with" in line
    forget_fingerprint(place / "model")
    assert cli("score", *at, "--date", DATE) == 3
    assert embed_shop(place) == 0
    assert "30 encoded, 0 kept" in capsys.readouterr().out
    assert cli("score", *at, "--date", DATE) == 0


def test_a_model_keeps_its_name_however_its_generation_config_would_sample(
    shop: tuple[Path, Catalog],
) -> None:
    place, _ = shop
    assert embed_shop(place) == 0
    at = ("--warehouse", place / "warehouse", "--model", place / "model", "--date", DATE)
    score = ("score", *at, "--reasoning-budget", 20)
    assert cli(*score) == 0
    warehouse = Warehouse(str(place / "warehouse"))
    before = {path: warehouse.read_file(path) for path in warehouse.list_files("reasoning")}
    for table in ("runs", "reasoning", "recommendations"):
        warehouse.remove_dir(table)
    file = place / "model" / "generation_config.json"
    wild = {
        "do_sample": True,
        "temperature": 3.0,
        "top_k": 2,
        "top_p": 0.3,
        "repetition_penalty": 5.0,
        "no_repeat_ngram_size": 1,
        "min_new_tokens": 19,
        "max_length": 3,
        "forced_eos_token_id": 5,
        "suppress_tokens": list(range(100, 200)),
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | wild))
    assert cli(*score) == 0
    assert {path: warehouse.read_file(path) for path in warehouse.list_files("reasoning")} == before
