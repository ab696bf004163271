"""`r2ec-cli embed`: the catalog's item rows for one model, kept as a table.

Rows are keyed by (model fingerprint, text_hash): a new catalog version, or a second run, encodes
only items whose text is new.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from r2ec import schemas
from r2ec.errors import NotReadyError, UsageError
from r2ec.logs import get_logger
from r2ec.model.checkpoint import LoadedModel, check_catalog, load_model
from r2ec.retrieval.embed import embed_items
from r2ec.storage import Warehouse
from r2ec.tables import Catalog, load_catalog

_LOG = get_logger(__name__)


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
    warehouse: Warehouse, model_dir: str, version: str | None, *, device: str | None = None
) -> EmbedResult:
    """Bring `item_embeddings/model=M` up to a catalog version (the latest by default).

    Raises `NotReadyError` without catalog or model, `UsageError` for a catalog the model does not
    know.
    """
    catalog = load_catalog(warehouse, version)
    loaded = load_model(model_dir, device=default_device(device))
    check_catalog(loaded.card, catalog, model_dir)
    warehouse.check_writable()
    table_IH, num_encoded = embeddings_for(warehouse, loaded, catalog)
    write_embeddings(warehouse, loaded.card.fingerprint, catalog, table_IH)
    return EmbedResult(
        model=loaded.card.fingerprint,
        catalog_version=catalog.version,
        num_items=catalog.num_items,
        num_encoded=num_encoded,
        num_kept=catalog.num_items - num_encoded,
    )


def embeddings_for(
    warehouse: Warehouse, loaded: LoadedModel, catalog: Catalog
) -> tuple[Tensor, int]:
    """Rows of all items, float32 (I, H), and how many of them had to be encoded."""
    kept = _rows_by_text(warehouse, loaded.card.fingerprint)
    new = [item for item in catalog.items if item.text_hash not in kept]
    rows = [loaded.encoder.item_ids(item) for item in new]
    pad = next(iter(loaded.encoder.stop_ids))
    encoded_NH = embed_items(loaded.model, rows, pad_id=pad).numpy()
    kept |= {item.text_hash: row for item, row in zip(new, encoded_NH, strict=True)}
    table_IH = np.stack([kept[item.text_hash] for item in catalog.items])
    return torch.from_numpy(table_IH), len(new)


def write_embeddings(
    warehouse: Warehouse, fingerprint: str, catalog: Catalog, table_IH: Tensor
) -> None:
    """Replace the partition by one file, in one act."""
    hidden = table_IH.shape[1]
    values = pa.array(table_IH.numpy().reshape(-1), type=pa.float32())
    rows = pa.table(
        [
            pa.array(range(catalog.num_items), type=pa.int64()),
            pa.array([item.text_hash for item in catalog.items], type=pa.string()),
            pa.FixedSizeListArray.from_arrays(values, hidden),
        ],
        schema=schemas.item_embeddings_schema(hidden),
    )
    warehouse.write_parquet(rows, "item_embeddings", f"model={fingerprint}", "part-00000.parquet")


def load_embeddings(warehouse: Warehouse, fingerprint: str, catalog: Catalog) -> Tensor:
    """Item rows in the order of the catalog, float32 (I, H).

    Raises `NotReadyError` if an item has no row, or a row of an older text.
    """
    remedy = f"run r2ec-cli embed for catalog version {catalog.version} first"
    if fingerprint not in warehouse.partitions("item_embeddings", "model"):
        raise NotReadyError(f"there are no item embeddings of model {fingerprint}; {remedy}")
    rows = _rows_by_text(warehouse, fingerprint)
    missing = [item.item_id for item in catalog.items if item.text_hash not in rows]
    if missing:
        raise NotReadyError(
            f"{len(missing):,} items of catalog {catalog.version} have no embedding of model"
            f" {fingerprint} for their present text (first: {missing[0]!r}); {remedy}"
        )
    return torch.from_numpy(np.stack([rows[item.text_hash] for item in catalog.items]))


def _rows_by_text(warehouse: Warehouse, fingerprint: str) -> dict[str, np.ndarray]:
    """Embedding of each text that is in the table of this model, (H,) each."""
    if fingerprint not in warehouse.partitions("item_embeddings", "model"):
        return {}
    table = warehouse.read_table(schemas.ITEM_EMBEDDINGS, model=fingerprint)
    if table.num_rows == 0:
        return {}
    values = table.column("embedding").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matrix = values.reshape(table.num_rows, -1)
    return dict(zip(table.column("text_hash").to_pylist(), matrix, strict=True))
