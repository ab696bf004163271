"""One version of the catalog: its texts as Arrow has them, an item made when it is asked for.

No object stands for an item, so ten million items take the room of their texts, and where that is
more than memory should hold they lie in a mapped file.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from r2ec import schemas
from r2ec.errors import NotReadyError
from r2ec.mapped_batches import drained, even_batches, held_batches
from r2ec.memory import free_memory
from r2ec.storage import Warehouse

_BATCH_ROWS = 1 << 14
_SHARE = 0.25  # of the free memory that the texts may take; item rows and model need more
_COLUMNS = ("item_id", "title", "description", "category", "store", "price", "text_hash")
_SCHEMA = pa.schema([schemas.CATALOG.schema.field(name) for name in _COLUMNS])


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogItem:
    """The text of one item, as prompts see it; missing fields are empty or None."""

    item_index: int
    item_id: str
    title: str
    description: str
    category: str
    store: str
    price: float | None
    text_hash: str


class CatalogItems(Sequence[CatalogItem]):
    """The items by `item_index`, from 0; a slice is a tuple of them."""

    def __init__(self, rows: Iterable[pa.RecordBatch]) -> None:
        """`rows` have the columns of the catalog's texts, in the order of `item_index`.

        Raises `R2ecError` where they fit neither into memory nor into the temporary files.
        """
        self._batch_rows = _BATCH_ROWS
        even = even_batches(rows, self._batch_rows)
        most_bytes = int(_SHARE * free_memory())
        self._batches = held_batches(even, most_bytes, what="the texts of the catalog")
        self._num_items: int = sum(batch.num_rows for batch in self._batches)

    def __len__(self) -> int:
        return self._num_items

    @overload
    def __getitem__(self, index: int) -> CatalogItem: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[CatalogItem, ...]: ...

    def __getitem__(self, index: int | slice) -> CatalogItem | tuple[CatalogItem, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(self._num_items)[index])
        place = range(self._num_items)[index]
        number, row = divmod(place, self._batch_rows)
        batch = self._batches[number]
        return _item(place, *(batch.column(column)[row].as_py() for column in range(len(_COLUMNS))))

    def __iter__(self) -> Iterator[CatalogItem]:
        for number, batch in enumerate(self._batches):
            columns = (column.to_pylist() for column in batch.columns)
            first = number * self._batch_rows
            for index, values in enumerate(zip(*columns, strict=True), start=first):
                yield _item(index, *values)

    def iter_columns(self, *names: str) -> Iterator[tuple[pa.Array, ...]]:
        """Some columns, some thousand items at a time, in the order of `item_index`."""
        for batch in self._batches:
            yield tuple(batch[name] for name in names)

    def values(self, name: str, indices: NDArray[np.int64]) -> pa.Array:
        """One column of the items with these indices, in their order."""
        number, row = np.divmod(indices, self._batch_rows)
        order = np.argsort(number, kind="stable")
        borders = np.flatnonzero(np.diff(number[order])) + 1
        taken = [
            self._batches[number[some[0]]][name].take(pa.array(row[some]))
            for some in np.split(order, borders)
            if len(some)
        ]
        if not taken:
            return _SCHEMA.empty_table()[name].combine_chunks()
        return pa.concat_arrays(taken).take(pa.array(np.argsort(order)))

    def indices_of(self, item_ids: Iterable[str]) -> dict[str, int]:
        """`item_index` of those of the shop's ids that are in the catalog."""
        wanted = pa.array(sorted({name for name in item_ids if is_text(name)}), pa.string())
        if not len(wanted):
            return {}
        ids = pa.chunked_array([some for (some,) in self.iter_columns("item_id")], pa.string())
        # Over all batches at once, for each call hashes what is wanted.
        index_P = np.flatnonzero(pc.is_in(ids, wanted).to_numpy())
        names = self.values("item_id", index_P).to_pylist()
        return dict(zip(names, index_P.tolist(), strict=True))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Catalog:
    """One version of the catalog; `items[i]` is the item with `item_index` i."""

    version: str
    items: CatalogItems
    _prefixes: dict[int, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, version: str, items: Iterable[CatalogItem]) -> "Catalog":
        """The catalog of these items, in their order; their own `item_index` is not looked at."""
        rows = [{name: _or_none(getattr(item, name)) for name in _COLUMNS} for item in items]
        batches = pa.Table.from_pylist(rows, schema=_SCHEMA).to_batches()
        return cls(version=version, items=CatalogItems(batches))

    @property
    def num_items(self) -> int:
        """Number of items I; indices run from 0 to I - 1."""
        return len(self.items)

    def fingerprint(self, num_items: int | None = None) -> str:
        """Hash of the ids of the first `num_items` items (all by default), in index order.

        An appended version has the same fingerprint over the older version's length.
        """
        length = self.num_items if num_items is None else num_items
        if length not in self._prefixes:
            digest, left = hashlib.sha256(), length
            for (ids,) in self.items.iter_columns("item_id"):
                some = ids.slice(0, left).to_pylist()
                digest.update("".join(f"{item_id}\0" for item_id in some).encode())
                left -= len(some)
            self._prefixes[length] = digest.hexdigest()[:16]
        return self._prefixes[length]

    def text_fingerprint(self) -> str:
        """Hash of all ids and texts, in index order: the same exactly when every prompt would be.

        A version that appended nothing and changed no text has that of the version before.
        """
        digest = hashlib.sha256()
        for columns in self.items.iter_columns("item_id", "text_hash"):
            pairs = zip(*(column.to_pylist() for column in columns), strict=True)
            digest.update("".join(f"{item_id}\0{text}\0" for item_id, text in pairs).encode())
        return digest.hexdigest()[:16]


def load_catalog(warehouse: Warehouse, version: str | None = None) -> Catalog:
    """Load a catalog version (the latest by default), checked to be dense from 0.

    Raises `NotReadyError` if there is none, or its indices are not 0 … I - 1.
    """
    versions = warehouse.partitions("catalog", "version")
    if not versions:
        raise NotReadyError(
            f"{warehouse.root} holds no catalog; run spark-submit jobs/build_catalog.py first"
        )
    chosen = version or versions[-1]
    if chosen not in versions:
        raise NotReadyError(
            f"catalog version {chosen} is not in {warehouse.root}; there: {', '.join(versions)}"
        )
    index = warehouse.read_table(schemas.CATALOG, columns=["item_index"], version=chosen)
    index_I = index["item_index"].to_numpy()
    if not len(index_I):
        raise NotReadyError(f"catalog version {chosen} in {warehouse.root} holds no items")
    dense_I = np.arange(len(index_I))
    if np.array_equal(index_I, dense_I):
        rows = warehouse.iter_batches(
            schemas.CATALOG, batch_rows=_BATCH_ROWS, columns=list(_COLUMNS), version=chosen
        )
    elif np.array_equal(np.sort(index_I), dense_I):
        rows = _in_order(warehouse, chosen)
    else:
        raise NotReadyError(
            f"catalog version {chosen} in {warehouse.root}: item_index is not dense from 0;"
            " rebuild it with jobs/build_catalog.py"
        )
    return Catalog(version=chosen, items=CatalogItems(rows))


def _in_order(warehouse: Warehouse, version: str) -> Iterator[pa.RecordBatch]:
    """The texts of a catalog whose files have another order: it is in memory twice for a moment."""
    names = ["item_index", *_COLUMNS]
    table = warehouse.read_table(schemas.CATALOG, columns=names, version=version)
    table = table.sort_by("item_index").select(_COLUMNS)
    return drained(table.to_batches(_BATCH_ROWS))


def _or_none(value: object) -> object:
    """A text that is missing, as the table has it."""
    return None if value == "" else value


def is_text(value: str) -> bool:
    """Whether a string can stand in a table at all: arguments may hold bytes that are no UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _item(
    index: int,
    item_id: str,
    title: str | None,
    description: str | None,
    category: str | None,
    store: str | None,
    price: float | None,
    text_hash: str,
) -> CatalogItem:
    return CatalogItem(
        item_index=index,
        item_id=item_id,
        title=title or "",
        description=description or "",
        category=category or "",
        store=store or "",
        price=price,
        text_hash=text_hash,
    )
