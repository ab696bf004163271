"""`r2ec-cli embed`: the catalog's item rows for one model, kept as a table.

Rows are keyed by (model fingerprint, text_hash): a new catalog version, or a second run, encodes
only items whose text is new.
"""

from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from r2ec import schemas
from r2ec.errors import NotReadyError, UsageError
from r2ec.model.checkpoint import LoadedModel, check_catalog, load_model
from r2ec.retrieval.embed import embed_items
from r2ec.retrieval.table import empty_table
from r2ec.storage import Warehouse
from r2ec.tables import Catalog, load_catalog

_READ_AT_ONCE = 65_536
_ENCODED_AT_ONCE = 65_536
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
    """Rows of all items, float32 (I, H) on the CPU, and how many of them had to be encoded.

    The others are those of the table `item_embeddings`, where the text is still the same. Nothing
    is written.
    """
    table_IH, is_there = _kept_rows(
        warehouse, loaded.card.fingerprint, catalog, loaded.model.hidden_size
    )
    new = [index for index, there in enumerate(is_there) if not there]
    pad = next(iter(loaded.encoder.stop_ids))
    for first in range(0, len(new), _ENCODED_AT_ONCE):
        some = new[first : first + _ENCODED_AT_ONCE]
        rows = [loaded.encoder.item_ids(catalog.items[index]) for index in some]
        table_IH[some] = embed_items(loaded.model, rows, pad_id=pad)
    return table_IH, len(new)


def write_embeddings(
    warehouse: Warehouse, fingerprint: str, catalog: Catalog, table_IH: Tensor
) -> None:
    """Write the partition in files of consecutive items, each replaced in one act.

    An item keeps its index, so a file keeps its items, and the last file is the first to be
    written: whenever the process ends, no row that was there and is still right is lost.
    """
    hidden = table_IH.shape[1]
    step = max(1, _FILE_BYTES // (4 * hidden))
    for number, first in reversed(list(enumerate(range(0, catalog.num_items, step)))):
        rows_NH = table_IH[first : first + step]
        items = catalog.items[first : first + step]
        rows = pa.table(
            [
                pa.array(range(first, first + len(items)), type=pa.int64()),
                pa.array([item.text_hash for item in items], type=pa.string()),
                pa.FixedSizeListArray.from_arrays(pa.array(rows_NH.numpy().reshape(-1)), hidden),
            ],
            schema=schemas.item_embeddings_schema(hidden),
        )
        warehouse.write_parquet(
            rows, "item_embeddings", f"model={fingerprint}", f"part-{number:05d}.parquet"
        )


def load_embeddings(warehouse: Warehouse, fingerprint: str, catalog: Catalog) -> Tensor:
    """Item rows in the order of the catalog, float32 (I, H).

    Raises `NotReadyError` if an item has no row, or a row of an older text.
    """
    remedy = f"run r2ec-cli embed for catalog version {catalog.version} first"
    if fingerprint not in warehouse.partitions("item_embeddings", "model"):
        raise NotReadyError(f"there are no item embeddings of model {fingerprint}; {remedy}")
    table_IH, is_there = _kept_rows(warehouse, fingerprint, catalog, None)
    missing = [index for index, there in enumerate(is_there) if not there]
    if missing:
        first = catalog.items[missing[0]].item_id
        raise NotReadyError(
            f"{len(missing):,} items of catalog {catalog.version} have no embedding of model"
            f" {fingerprint} for their present text (first: {first!r}); {remedy}"
        )
    return table_IH


def _kept_rows(
    warehouse: Warehouse, fingerprint: str, catalog: Catalog, hidden_size: int | None
) -> tuple[Tensor, bytearray]:
    """Rows (I, H) of the items whose text is in the table of this model, and whose they are.

    The table is read a batch at a time; without `hidden_size` it tells that. The others are zero.
    """
    is_there = bytearray(catalog.num_items)
    places: dict[str, list[int]] = {}
    for index, item in enumerate(catalog.items):
        places.setdefault(item.text_hash, []).append(index)
    table_IH = None if hidden_size is None else empty_table(catalog.num_items, hidden_size)
    if fingerprint in warehouse.partitions("item_embeddings", "model"):
        for batch in warehouse.iter_batches(
            schemas.ITEM_EMBEDDINGS,
            batch_rows=_READ_AT_ONCE,
            columns=["text_hash", "embedding"],
            model=fingerprint,
        ):
            values = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
            rows_NH = torch.from_numpy(values.reshape(batch.num_rows, -1).copy())
            if table_IH is None:
                table_IH = empty_table(catalog.num_items, rows_NH.shape[1])
            pairs = [
                (index, row)
                for row, text in enumerate(batch.column("text_hash").to_pylist())
                for index in places.get(text, ())
            ]
            if pairs:
                indices, rows = (list(both) for both in zip(*pairs, strict=True))
                table_IH[indices] = rows_NH[rows]
                for index in indices:
                    is_there[index] = 1
    return torch.zeros(catalog.num_items, 0) if table_IH is None else table_IH, is_there
