"""Directories and settings that no model can be made of: one line, the remedy, and a code."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from r2ec import schemas
from r2ec.catalog import Catalog
from r2ec.errors import UsageError
from r2ec.infer.embed import default_device
from r2ec.storage import Warehouse
from tests.factories.commands import cli, start
from tests.factories.models import save_small_model, small_model
from tests.factories.shop import write_shop

pytestmark = pytest.mark.e2e


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Path, Catalog]:
    """A warehouse, and a model of random weights that knows its catalog."""
    catalog = write_shop(str(tmp_path / "warehouse"))
    save_small_model(tmp_path / "model", catalog)
    return tmp_path, catalog


def init_from(place: Path) -> int:
    return cli("init-model", "--from", place / "model", "--output", place / "copy")


def cut_weights(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def break_config(model: Path) -> None:
    (model / "config.json").write_text("{")


def break_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text('{"version": "1.0"}')


def name_no_kind_of_model(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "abacus"}')


@pytest.mark.parametrize(
    "damage", [cut_weights, break_config, break_tokenizer, name_no_kind_of_model]
)
def test_a_damaged_model_directory_is_input_that_is_not_ready(
    shop: tuple[Path, Catalog], damage, capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = shop
    damage(place / "model")
    assert init_from(place) == 3
    assert cli("embed", "--warehouse", place / "warehouse", "--model", place / "model") == 3
    for line in capsys.readouterr().err.strip().splitlines():
        assert line.startswith(f"error: {place / 'model'}")
        assert "again" in line


def test_a_tokenizer_without_an_end_is_wrong_use(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = shop
    file = place / "model" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"eos_token": None}))
    assert init_from(place) == 2
    assert f"{place / 'model'} has no eos_token" in capsys.readouterr().err
    assert not (place / "copy").exists()


def test_a_damaged_card_is_named(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = shop
    file = place / "model" / "r2ec.json"
    card = json.loads(file.read_text())
    file.write_text(json.dumps(card | {"prompt": {"history_items": -1}}))
    assert cli("embed", "--warehouse", place / "warehouse", "--model", place / "model") == 2
    assert "r2ec.json: prompt {'history_items': -1} is damaged" in capsys.readouterr().err


def test_prompts_that_hold_not_one_item_end_training_with_the_setting(
    shop: tuple[Path, Catalog],
) -> None:
    place, _ = shop
    (place / "train.toml").write_text(
        '[model]\ndtype = "float32"\n[contrastive]\nsteps = 1\nbatch_users = 4\n'
    )
    at = ("--warehouse", place / "warehouse", "--base-model", place / "model")
    train = ("train", "--config", place / "train.toml", *at, "--output", place / "trained")
    process = start(*train, "--set", "prompt.max_prompt_tokens=40")
    printed, _ = process.communicate()
    assert process.returncode == 2
    assert "prompt.max_prompt_tokens = 40" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "cpu:one", "meta-physical"])
def test_a_device_that_is_not_there_is_wrong_use(
    shop: tuple[Path, Catalog], device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = shop
    at = ("--warehouse", place / "warehouse", "--model", place / "model", "--device", device)
    assert cli("embed", *at) == 2
    assert cli("evaluate", *at, "--split", "valid") == 2
    shown = capsys.readouterr().err
    assert f"--device {device!r} cannot be used" in shown
    assert "this machine has: cpu" in shown
    assert default_device("cpu") == "cpu"


def test_a_catalog_with_gaps_is_input_that_is_not_ready(
    shop: tuple[Path, Catalog], capsys: pytest.CaptureFixture[str]
) -> None:
    place, catalog = shop
    warehouse = Warehouse(str(place / "warehouse"))
    rows = warehouse.read_table(schemas.CATALOG, version=catalog.version)
    gap = rows.filter(pc.not_equal(rows["item_index"], pa.scalar(3)))
    warehouse.write_parquet(gap, "catalog", f"version={catalog.version}", "part-0.parquet")
    assert cli("embed", "--warehouse", place / "warehouse", "--model", place / "model") == 3
    assert "item_index is not dense from 0" in capsys.readouterr().err


def test_a_model_whose_logits_are_changed_in_an_unknown_way_is_wrong_use() -> None:
    model, _ = small_model("llama")
    model.causal_lm.register_forward_hook(lambda _module, _input, output: shifted(output))
    with pytest.raises(UsageError, match="use another base model"):
        model.check_backbone()


def shifted(output):
    output.logits = output.logits * 3 + 1
    return output
