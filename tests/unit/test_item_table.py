"""Item rows that do not fit into memory lie in a mapped file, and are the same."""

from pathlib import Path

import pytest
import torch

from r2ec import memory
from r2ec.catalog import Catalog
from r2ec.errors import NotReadyError, R2ecError
from r2ec.infer import embed, kept_rows
from r2ec.infer.embed import load_embeddings, write_embeddings
from r2ec.retrieval import table
from r2ec.retrieval.rank import top_k
from r2ec.retrieval.table import empty_table
from r2ec.storage import Warehouse
from tests.factories.models import small_catalog

MODEL = "0123456789ab"


def mapped_files() -> list[str]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in maps if "r2ec-items-" in line]


def embedded(warehouse: Warehouse, catalog: Catalog) -> torch.Tensor:
    rows_IH = torch.randn(catalog.num_items, 4, generator=torch.Generator().manual_seed(0))
    write_embeddings(warehouse, MODEL, catalog, rows_IH)
    return rows_IH


def test_a_table_too_large_for_memory_is_a_file_that_nobody_has_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table.tempfile, "tempdir", str(tmp_path))
    rows_IH = empty_table(100, 8, most_bytes=100 * 8 * 4 - 1)
    assert rows_IH.shape == (100, 8)
    assert not rows_IH.any()
    assert len(mapped_files()) == 1
    assert list(tmp_path.iterdir()) == []
    rows_IH[[3, 99]] = torch.arange(16.0).view(2, 8)
    assert rows_IH.sum() == 120
    del rows_IH
    assert mapped_files() == []
    empty_table(100, 8, most_bytes=100 * 8 * 4)
    assert mapped_files() == []


def test_rows_that_fit_nowhere_are_told_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(R2ecError, match=rf"neither into memory nor into {tmp_path} .*TMPDIR"):
        empty_table(1 << 40, 64)
    assert list(tmp_path.iterdir()) == []


def test_what_is_free_is_no_more_than_the_cgroup_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert memory.free_memory() > 0
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    for name, text in (("current", "900"), ("max", "1000"), ("stat", "anon 5\ninactive_file 50")):
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    assert memory.free_memory() == 150
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory() > 150


@pytest.mark.parametrize("file_bytes", [1 << 28, 5 * 16])
@pytest.mark.parametrize("free_bytes", [1 << 30, 0])
def test_embeddings_come_back_in_the_catalogs_order_wherever_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, file_bytes: int
) -> None:
    monkeypatch.setattr(embed, "_FILE_BYTES", file_bytes)
    monkeypatch.setattr(kept_rows, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr(table, "free_memory", lambda: free_bytes)
    warehouse, catalog = Warehouse(str(tmp_path)), small_catalog()
    rows_IH = embedded(warehouse, catalog)
    files = warehouse.list_files("item_embeddings")
    assert len(files) == (1 if file_bytes > 1000 else -(-catalog.num_items // 5))
    found_IH = load_embeddings(warehouse, MODEL, catalog)
    assert len(mapped_files()) == (0 if free_bytes else 1)
    assert torch.equal(found_IH, rows_IH)
    users_BH = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    for one, other in zip(
        top_k(users_BH, found_IH, 3, temperature=0.1),
        top_k(users_BH, rows_IH, 3, temperature=0.1),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_a_kill_between_two_files_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file of an earlier release, then files of five items each, cut off after each of them."""
    warehouse, catalog = Warehouse(str(tmp_path)), small_catalog()
    rows_IH = embedded(warehouse, catalog)
    monkeypatch.setattr(embed, "_FILE_BYTES", 5 * 16)
    write, num_files = Warehouse.write_parquet, -(-catalog.num_items // 5)
    assert num_files > 1
    for whole in range(num_files):
        written = 0

        def write_some(self: Warehouse, *given: object, whole: int = whole) -> object:
            nonlocal written
            if written == whole:
                raise KeyboardInterrupt
            written += 1
            return write(self, *given)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(Warehouse, "write_parquet", write_some)
            with pytest.raises(KeyboardInterrupt):
                write_embeddings(warehouse, MODEL, catalog, rows_IH)
        assert torch.equal(load_embeddings(warehouse, MODEL, catalog), rows_IH)


def test_an_item_without_a_row_is_named(tmp_path: Path) -> None:
    warehouse, catalog = Warehouse(str(tmp_path)), small_catalog()
    with pytest.raises(NotReadyError, match="no item embeddings of model"):
        load_embeddings(warehouse, MODEL, catalog)
    half = Catalog.of(catalog.version, catalog.items[:-2])
    embedded(warehouse, half)
    name = catalog.items[-2].item_id
    with pytest.raises(NotReadyError, match=rf"2 items of catalog .*first: '{name}'"):
        load_embeddings(warehouse, MODEL, catalog)
