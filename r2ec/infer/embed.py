"""`r2ec-cli embed`: the catalog's item rows for one model, kept as a table.

Rows are keyed by (model fingerprint, text_hash): a new catalog version, or a second run, encodes
only items whose text is new. Each file is written once its rows are encoded, so a run that is ended
before all are keeps those that are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2ec import schemas
from r2ec.catalog import Catalog, load_catalog
from r2ec.errors import NotReadyError, R2ecError, UsageError
from r2ec.infer.kept_rows import kept_rows
from r2ec.model.card import check_catalog
from r2ec.model.checkpoint import LoadedModel, load_model
from r2ec.retrieval.embed import embed_items
from r2ec.storage import Warehouse

_ENCODED_AT_ONCE = 8192
_FILE_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedResult:
    """What `embed_catalog` did; `model` is the fingerprint that names the partition."""

    model: str
    catalog_version: str
    num_items: int
    num_encoded: int
    num_kept: int


def default_device(device: str | None) -> str:
    """The device asked for, or CUDA where there is one.

    Raises `UsageError` for a device that this machine, or this PyTorch, does not have.
    """
    if not device:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"--device {device!r} cannot be used ({reason}); this machine has: {', '.join(there)}"
        ) from error
    return device


def embed_catalog(
    warehouse: Warehouse,
    model_dir: str,
    version: str | None,
    *,
    device: str | None = None,
    report: Callable[[int], None] = lambda num_encoded: None,
) -> EmbedResult:
    """Bring `item_embeddings/model=M` up to a catalog version (the latest by default).

    `report(n)` is called with each n items encoded. Raises `NotReadyError` without catalog or
    model, `UsageError` for a catalog the model does not know, `R2ecError` for an item of which the
    model makes no finite row.
    """
    catalog = load_catalog(warehouse, version)
    loaded = load_model(model_dir, device=default_device(device))
    check_catalog(loaded.card, catalog, model_dir)
    warehouse.check_writable()
    table_IH, new = _table_and_new(warehouse, loaded, catalog)

    def encode(items: range) -> None:
        first, end = np.searchsorted(new, [items.start, items.stop])
        _encode_into(table_IH, new[first:end], loaded, catalog, report)

    write_embeddings(warehouse, loaded.card.fingerprint, catalog, table_IH, encode)
    return EmbedResult(
        model=loaded.card.fingerprint,
        catalog_version=catalog.version,
        num_items=catalog.num_items,
        num_encoded=len(new),
        num_kept=catalog.num_items - len(new),
    )


def embeddings_for(
    warehouse: Warehouse, loaded: LoadedModel, catalog: Catalog
) -> tuple[Tensor, int]:
    """Rows of all items, float32 (I, H) on the CPU, and how many of them had to be encoded.

    The others are those of the table `item_embeddings`, where the text is still the same. Nothing
    is written. Raises `R2ecError` for an item of which the model makes no finite row.
    """
    table_IH, new = _table_and_new(warehouse, loaded, catalog)
    _encode_into(table_IH, new, loaded, catalog)
    return table_IH, len(new)


def write_embeddings(
    warehouse: Warehouse,
    fingerprint: str,
    catalog: Catalog,
    table_IH: Tensor,
    encode: Callable[[range], None] = lambda items: None,
) -> None:
    """Write the partition in files of consecutive items, each replaced in one act.

    `encode(items)` is called before the rows of these items are taken from the table. An item keeps
    its index, so a file keeps its items, and the last file is the first to be written: whenever the
    process ends, no row that was there and is still right is lost.
    """
    hidden = table_IH.shape[1]
    step = max(1, _FILE_BYTES // (4 * hidden))
    for number, first in reversed(list(enumerate(range(0, catalog.num_items, step)))):
        indices = range(first, min(first + step, catalog.num_items))
        encode(indices)
        rows_NH = table_IH[first : indices.stop]
        rows = pa.table(
            [
                pa.array(indices, type=pa.int64()),
                catalog.items.values("text_hash", np.arange(first, indices.stop)),
                pa.FixedSizeListArray.from_arrays(pa.array(rows_NH.numpy().reshape(-1)), hidden),
            ],
            schema=schemas.item_embeddings_schema(hidden),
        )
        warehouse.write_parquet(
            rows, "item_embeddings", f"model={fingerprint}", f"part-{number:05d}.parquet"
        )


def _table_and_new(
    warehouse: Warehouse, loaded: LoadedModel, catalog: Catalog
) -> tuple[Tensor, NDArray[np.int64]]:
    """Rows (I, H) that are kept, and the ascending indices of the items that have none."""
    return kept_rows(warehouse, loaded.card.fingerprint, catalog, loaded.model.hidden_size)


def _encode_into(
    table_IH: Tensor,
    indices: NDArray[np.int64],
    loaded: LoadedModel,
    catalog: Catalog,
    report: Callable[[int], None] = lambda num_encoded: None,
) -> None:
    """Encode these items into their places of the table."""
    pad = next(iter(loaded.encoder.stop_ids))
    for first in range(0, len(indices), _ENCODED_AT_ONCE):
        some = indices[first : first + _ENCODED_AT_ONCE].tolist()
        ids = [loaded.encoder.item_ids(catalog.items[index]) for index in some]
        rows_NH = embed_items(loaded.model, ids, pad_id=pad)
        wrong = (~rows_NH.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if wrong:
            # Ranking could not tell it from the others: every user would fail by it.
            raise R2ecError(
                f"the model makes no finite row of item {catalog.items[some[wrong[0]]].item_id!r}"
                f" ({len(wrong):,} such items): mend its text in the catalog, or use a model of"
                " dtype float32"
            )
        table_IH[some] = rows_NH
        report(len(some))


def load_embeddings(warehouse: Warehouse, fingerprint: str, catalog: Catalog) -> Tensor:
    """Item rows in the order of the catalog, float32 (I, H).

    Raises `NotReadyError` if an item has no row, or a row of an older text.
    """
    remedy = f"run r2ec-cli embed for catalog version {catalog.version} first"
    if fingerprint not in warehouse.partitions("item_embeddings", "model"):
        raise NotReadyError(f"there are no item embeddings of model {fingerprint}; {remedy}")
    table_IH, missing = kept_rows(warehouse, fingerprint, catalog, None)
    if len(missing):
        first = catalog.items[int(missing[0])].item_id
        raise NotReadyError(
            f"{len(missing):,} items of catalog {catalog.version} have no embedding of model"
            f" {fingerprint} for their present text (first: {first!r}); {remedy}"
        )
    return table_IH
