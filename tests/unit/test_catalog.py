"""A catalog keeps its texts as columns, in memory or in a mapped file: the same items."""

import hashlib
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from r2ec import catalog as module
from r2ec import schemas
from r2ec.catalog import Catalog, load_catalog
from r2ec.errors import NotReadyError, R2ecError, UsageError
from r2ec.storage import Warehouse
from tests.factories.models import small_catalog
from tests.factories.shop import longer_catalog, other_catalog, write_catalog

NUM_ITEMS = 30


def rows_of(catalog: Catalog) -> pa.Table:
    rows = [
        {name: getattr(item, name, None) or None for name in schemas.CATALOG.schema.names}
        | {"item_index": item.item_index}
        for item in catalog.items
    ]
    return pa.Table.from_pylist(rows, schema=schemas.CATALOG.schema)


def write_files(root: Path, rows: pa.Table, *cuts: int) -> Warehouse:
    """The rows of one version, a file for each stretch between the cuts."""
    warehouse = Warehouse(str(root))
    borders = [0, *cuts, rows.num_rows]
    for number, (low, high) in enumerate(pairwise(borders)):
        part = rows.slice(low, high - low)
        warehouse.write_parquet(part, "catalog", "version=2024-05-31", f"part-{number}.parquet")
    return warehouse


def mapped_files() -> list[str]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in maps if "r2ec-batches-" in line]


@pytest.mark.parametrize("free_bytes", [1 << 30, 2000, 0])
@pytest.mark.parametrize("batch_rows", [1, 7, 30, 100])
def test_items_are_those_of_the_files_however_they_are_cut_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int, free_bytes: int
) -> None:
    wanted = small_catalog(NUM_ITEMS)
    warehouse = write_files(tmp_path / "warehouse", rows_of(wanted), 3, 4, 20)
    monkeypatch.setattr(module, "_BATCH_ROWS", batch_rows)
    monkeypatch.setattr(module, "free_memory", lambda: free_bytes)
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    found = load_catalog(warehouse)
    assert bool(mapped_files()) == (free_bytes < 1 << 30)
    assert list(spool.iterdir()) == []
    assert list(found.items) == list(wanted.items)
    assert [found.items[index] for index in range(NUM_ITEMS)] == list(wanted.items)
    assert found.items[-1] == wanted.items[29]
    assert found.items[28:] == wanted.items[28:]
    assert found.items[5].description
    with pytest.raises(IndexError):
        found.items[NUM_ITEMS]
    indices = np.array([29, 3, 3, 0, 20])
    names = [wanted.items[index].item_id for index in indices]
    assert found.items.values("item_id", indices).to_pylist() == names
    assert len(found.items.values("item_id", indices[:0])) == 0
    assert found.items.indices_of([*names, "unknown"]) == dict(zip(names, indices, strict=True))
    assert found.items.indices_of([]) == {}
    assert found.fingerprint() == wanted.fingerprint()
    assert found.text_fingerprint() == wanted.text_fingerprint()
    del found
    assert mapped_files() == []


def test_an_item_that_costs_nothing_keeps_its_price() -> None:
    items = [
        replace(item, price=price)
        for item, price in zip(small_catalog(2).items, (0.0, None), strict=True)
    ]
    assert [item.price for item in Catalog.of("2024-05-31", items).items] == [0.0, None]


def test_fingerprints_are_hashes_of_ids_and_texts_in_order() -> None:
    catalog = small_catalog(NUM_ITEMS)
    ids = "".join(f"{item.item_id}\0" for item in catalog.items[:8])
    assert catalog.fingerprint(8) == hashlib.sha256(ids.encode()).hexdigest()[:16]
    both = "".join(f"{item.item_id}\0{item.text_hash}\0" for item in catalog.items)
    assert catalog.text_fingerprint() == hashlib.sha256(both.encode()).hexdigest()[:16]
    assert longer_catalog(catalog, 3).fingerprint(NUM_ITEMS) == catalog.fingerprint()
    assert longer_catalog(catalog, 3).text_fingerprint() != catalog.text_fingerprint()
    assert other_catalog(catalog).fingerprint(1) != catalog.fingerprint(1)


def test_a_catalog_that_another_writer_left_in_any_order_is_put_in_order(tmp_path: Path) -> None:
    wanted = small_catalog(NUM_ITEMS)
    rows = rows_of(wanted)
    mixed = rows.take(pa.array(np.random.default_rng(0).permutation(NUM_ITEMS)))
    found = load_catalog(write_files(tmp_path, mixed, 11))
    assert list(found.items) == list(wanted.items)


@pytest.mark.parametrize("indices", [[0, 1, 3], [1, 2, 3], [0, 1, 1], [-1, 0, 1]])
def test_a_catalog_with_a_gap_is_refused(tmp_path: Path, indices: list[int]) -> None:
    rows = rows_of(small_catalog(3)).set_column(
        0, schemas.CATALOG.schema.field("item_index"), pa.array(indices)
    )
    with pytest.raises(NotReadyError, match=r"not dense from 0; rebuild it with jobs/build_cat"):
        load_catalog(write_files(tmp_path, rows))


def test_a_catalog_without_items_or_of_another_version_is_refused(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path))
    with pytest.raises(NotReadyError, match="holds no catalog"):
        load_catalog(warehouse)
    write_catalog(warehouse, Catalog.of("2024-05-31", []))
    with pytest.raises(NotReadyError, match="holds no items"):
        load_catalog(warehouse)
    with pytest.raises(NotReadyError, match=r"2024-05-30 is not in .*; there: 2024-05-31"):
        load_catalog(warehouse, "2024-05-30")


@pytest.mark.parametrize(
    ("column", "value"), [("item_index", None), ("item_id", None), ("price", "cheap")]
)
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_a_damaged_catalog_is_told_with_its_file(
    tmp_path: Path, column: str, value: object, order: list[int]
) -> None:
    rows = rows_of(small_catalog(3)).take(pa.array(order))
    spoilt = pa.array([*rows[column].to_pylist()[:2], value] if value is None else [value] * 3)
    names = rows.column_names
    loose = pa.table({name: spoilt if name == column else rows[name] for name in names})
    with pytest.raises(UsageError, match=r"version=2024-05-31.*build it again with spark-submit"):
        load_catalog(write_files(tmp_path, loose))


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file may become larger: what a full disk does, to this process alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_texts_that_fit_nowhere_are_told_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = write_files(tmp_path / "warehouse", rows_of(small_catalog(NUM_ITEMS)))
    monkeypatch.setattr(module, "free_memory", lambda: 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        largest_file(1000),
        pytest.raises(R2ecError, match=rf"neither into memory nor into {tmp_path} .*TMPDIR"),
    ):
        load_catalog(warehouse)
    assert [path.name for path in tmp_path.iterdir()] == ["warehouse"]
