"""Sequences that another program wrote, or that were built on another catalog."""

from dataclasses import replace
from pathlib import Path

import pytest

from r2ec.config import TrainConfig
from r2ec.errors import NotReadyError
from r2ec.recpo.workplace import load_data
from r2ec.storage import Warehouse
from r2ec.tables import load_examples
from tests.factories.models import examples_of
from tests.factories.shop import write_examples, write_shop


def test_a_sequence_without_a_history_is_named(tmp_path: Path) -> None:
    catalog, warehouse = write_shop(str(tmp_path)), Warehouse(str(tmp_path))
    examples = examples_of(catalog, 5)
    assert load_examples(warehouse, "train")
    nothing = replace(examples[3].history, item_index=(), rating=(), time=())
    examples[3] = replace(examples[3], history=nothing)
    write_examples(warehouse, "train", examples)
    with pytest.raises(NotReadyError, match=r"split=train .*sequence 3 of user 'u003': no history"):
        load_examples(warehouse, "train")


def test_a_target_that_the_catalog_lacks_is_named(tmp_path: Path) -> None:
    catalog, warehouse = write_shop(str(tmp_path)), Warehouse(str(tmp_path))
    config = TrainConfig.model_validate({"paths": {"warehouse": str(tmp_path)}})
    load_data(config)
    examples = examples_of(catalog, 5)
    examples[2] = replace(examples[2], target_index=catalog.num_items)
    write_examples(warehouse, "valid", examples)
    with pytest.raises(NotReadyError, match=r"sequence 2 has the target item_index 30.*holds 30"):
        load_data(config)
