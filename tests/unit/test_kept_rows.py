"""Which item rows a catalog can use: those of its present texts, at whatever index they stand."""

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ec import catalog as catalog_module
from r2ec import schemas
from r2ec.catalog import Catalog
from r2ec.infer import kept_rows as module
from r2ec.infer.kept_rows import kept_rows
from r2ec.storage import Warehouse
from tests.factories.models import small_catalog

MODEL = "0123456789ab"
HIDDEN = 2


def catalog_of(texts: list[str]) -> Catalog:
    items = small_catalog(len(texts)).items
    return Catalog.of(
        "2024-05-31",
        [replace(item, text_hash=text) for item, text in zip(items, texts, strict=True)],
    )


def write_rows(warehouse: Warehouse, rows: list[tuple[int, str, float]], name: str) -> None:
    """Rows (item_index, text_hash, first number of the row), as one file."""
    table = pa.table(
        [
            pa.array([index for index, _, _ in rows], pa.int64()),
            pa.array([text for _, text, _ in rows], pa.string()),
            pa.FixedSizeListArray.from_arrays(
                pa.array([number for *_, value in rows for number in (value, 1.0)], pa.float32()),
                HIDDEN,
            ),
        ],
        schema=schemas.item_embeddings_schema(HIDDEN),
    )
    warehouse.write_parquet(table, "item_embeddings", f"model={MODEL}", name)


def value_of(text: str) -> float:
    return float(len(text) * 100 + ord(text[0]))


@given(
    texts=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12),
    stored=st.lists(st.tuples(st.integers(0, 14), st.sampled_from("abcdefghxyz")), max_size=14),
    spoilt=st.sets(st.integers(0, 13)),
    cut=st.integers(0, 14),
)
def test_an_item_has_a_row_exactly_if_its_text_has_one(
    texts: list[str], stored: list[tuple[int, str]], spoilt: set[int], cut: int
) -> None:
    """Against a look through all rows, with batches of three items and two rows."""
    rows = [
        (index, text, math.nan if place in spoilt else value_of(text))
        for place, (index, text) in enumerate(stored)
    ]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog_module, "_BATCH_ROWS", 3)
        patch.setattr(module, "_ROWS_AT_ONCE", 2)
        warehouse = Warehouse(folder)
        for number, some in enumerate((rows[:cut], rows[cut:])):
            if some:
                write_rows(warehouse, some, f"part-{number}.parquet")
        table_IH, missing = kept_rows(warehouse, MODEL, catalog_of(texts), HIDDEN)
    there = {text for _, text, value in rows if not math.isnan(value)}
    assert missing.tolist() == [index for index, text in enumerate(texts) if text not in there]
    wanted = [[value_of(text), 1.0] if text in there else [0.0, 0.0] for text in texts]
    assert table_IH.tolist() == wanted


def test_texts_of_one_hash_in_this_process_are_still_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_keys", lambda texts: np.zeros(len(texts), np.int64))
    warehouse = Warehouse(str(tmp_path))
    write_rows(warehouse, [(5, "b", 2.0)], "part-0.parquet")
    table_IH, missing = kept_rows(warehouse, MODEL, catalog_of(["a", "b", "c", "b"]), HIDDEN)
    assert missing.tolist() == [0, 2]
    assert table_IH[:, 0].tolist() == [0.0, 2.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("texts", "num_readings"), [(["a", "b"], 1), (["a", "b", "new"], 2), (["b", "a"], 2)]
)
def test_rows_are_read_again_only_where_some_moved_and_some_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], num_readings: int
) -> None:
    """The table knows a later catalog, too."""
    warehouse = Warehouse(str(tmp_path))
    write_rows(warehouse, [(0, "a", 1.0), (1, "b", 2.0), (2, "c", 3.0)], "part-0.parquet")
    read, readings = module._iter_rows, []

    def counted(*given: object) -> object:
        readings.append(given)
        return read(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_iter_rows", counted)
    table_IH, missing = kept_rows(warehouse, MODEL, catalog_of(texts), HIDDEN)
    assert len(readings) == num_readings
    assert missing.tolist() == ([2] if "new" in texts else [])
    values = {"a": 1.0, "b": 2.0, "new": 0.0}
    assert table_IH[:, 0].tolist() == [values[text] for text in texts]


def test_without_a_table_no_item_has_a_row(tmp_path: Path) -> None:
    table_IH, missing = kept_rows(Warehouse(str(tmp_path)), MODEL, catalog_of(["a", "b"]), None)
    assert table_IH.shape == (2, 0)
    assert missing.tolist() == [0, 1]
