"""Rows of `item_embeddings` that a catalog can use: those of its items' present texts.

An item keeps its index and mostly its text, so nearly all rows are found at their own index. A text
that moved, or that another item has too, is found by its hash.

Shapes: I items, H hidden size, N rows of a batch, M items that want a row, P pairs of both.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch import Tensor

from r2ec import schemas
from r2ec.catalog import Catalog
from r2ec.retrieval.table import empty_table
from r2ec.storage import Warehouse

_ROWS_AT_ONCE = 8192


def kept_rows(
    warehouse: Warehouse, fingerprint: str, catalog: Catalog, hidden_size: int | None
) -> tuple[Tensor, NDArray[np.int64]]:
    """Rows (I, H) of the items whose text is in the table of this model, float32 on the CPU.

    With them the ascending indices of the items that have none; their rows are zero. Without
    `hidden_size` the table tells it. Beside the rows, memory is that of a row group of the files,
    some batches of it and some bytes an item.
    """
    num_items = catalog.num_items
    table_IH = None if hidden_size is None else empty_table(num_items, hidden_size)
    has_row_I = np.zeros(num_items, dtype=bool)
    some_moved = False
    for index_N, texts_N, rows_NH in _iter_rows(warehouse, fingerprint):
        if table_IH is None:
            table_IH = empty_table(num_items, rows_NH.shape[1])
        inside = np.flatnonzero((index_N >= 0) & (index_N < num_items))
        there = catalog.items.values("text_hash", index_N[inside])
        row = inside[_equal(there, texts_N.take(pa.array(inside)))]
        table_IH.numpy()[index_N[row]] = rows_NH[row]
        has_row_I[index_N[row]] = True
        some_moved |= len(row) < len(index_N)
    if table_IH is None:
        table_IH = empty_table(num_items, 0)
    wanted = _Wanted(catalog, np.flatnonzero(~has_row_I))
    first = 0
    for (texts,) in catalog.items.iter_columns("text_hash"):
        if wanted.is_empty:
            break
        row_N = np.flatnonzero(has_row_I[first : first + len(texts)])
        wanted.fill(table_IH, texts.take(pa.array(row_N)), table_IH.numpy(), row_N + first)
        first += len(texts)
    some_moved = some_moved and not wanted.is_empty
    for _, texts_N, rows_NH in _iter_rows(warehouse, fingerprint) if some_moved else ():
        wanted.fill(table_IH, texts_N, rows_NH, np.arange(len(rows_NH)))
    return table_IH, wanted.indices()


class _Wanted:
    """Items that want a row of their text, found by Python's hash of `text_hash`, then compared.

    Of two texts of one hash in a batch only one is looked at: the other's items go without a row,
    and are encoded.
    """

    def __init__(self, catalog: Catalog, index_M: NDArray[np.int64]) -> None:
        self._catalog = catalog
        first, keys = 0, [np.empty(0, np.int64)]
        if len(index_M):
            for (texts,) in catalog.items.iter_columns("text_hash"):
                low, high = np.searchsorted(index_M, [first, first + len(texts)])
                keys.append(_keys(texts.take(pa.array(index_M[low:high] - first))))
                first += len(texts)
        key_M = np.concatenate(keys)
        order = np.argsort(key_M, kind="stable")
        self._key_M, self._index_M = key_M[order], index_M[order]

    @property
    def is_empty(self) -> bool:
        """Whether all have a row."""
        return not len(self._index_M)

    def indices(self) -> NDArray[np.int64]:
        """`item_index` of all that have no row yet, ascending."""
        return np.sort(self._index_M)

    def fill(
        self,
        table_IH: Tensor,
        texts_N: pa.Array,
        rows: NDArray[np.float32],
        row_N: NDArray[np.int64],
    ) -> None:
        """Give the items whose text is among these its row; they want none any more.

        Text n has the row `rows[row_N[n]]`.
        """
        key_U, text_U = np.unique(_keys(texts_N), return_index=True)
        low_U = np.searchsorted(self._key_M, key_U, side="left")
        count_U = np.searchsorted(self._key_M, key_U, side="right") - low_U
        before_P = np.repeat(np.cumsum(count_U) - count_U, count_U)
        place_P = np.repeat(low_U, count_U) + np.arange(len(before_P)) - before_P
        text_P, index_P = np.repeat(text_U, count_U), self._index_M[place_P]
        texts_P = self._catalog.items.values("text_hash", index_P)
        same_P = _equal(texts_P, texts_N.take(pa.array(text_P)))
        table_IH.numpy()[index_P[same_P]] = rows[row_N[text_P[same_P]]]
        self._key_M = np.delete(self._key_M, place_P[same_P])
        self._index_M = np.delete(self._index_M, place_P[same_P])


def _iter_rows(
    warehouse: Warehouse, fingerprint: str
) -> Iterator[tuple[NDArray[np.int64], pa.Array, NDArray[np.float32]]]:
    """`item_index`, `text_hash` and row of all that is finite in a model's table, in batches."""
    if fingerprint not in warehouse.partitions("item_embeddings", "model"):
        return
    batches = warehouse.iter_batches(
        schemas.ITEM_EMBEDDINGS, batch_rows=_ROWS_AT_ONCE, model=fingerprint
    )
    for batch in batches:
        values = batch["embedding"].flatten().to_numpy(zero_copy_only=False)
        rows_NH = values.reshape(batch.num_rows, -1)
        finite = np.flatnonzero(np.isfinite(rows_NH).all(axis=1))
        if len(finite) < batch.num_rows:
            batch, rows_NH = batch.take(pa.array(finite)), rows_NH[finite]
        yield batch["item_index"].to_numpy(), batch["text_hash"], rows_NH


def _equal(texts: pa.Array, others: pa.Array) -> NDArray[np.bool_]:
    is_equal: NDArray[np.bool_] = pc.equal(texts, others).to_numpy(zero_copy_only=False)
    return is_equal


def _keys(texts: pa.Array) -> NDArray[np.int64]:
    return np.fromiter(map(hash, texts.to_pylist()), np.int64, count=len(texts))
