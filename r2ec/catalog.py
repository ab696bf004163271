"""One version of the catalog: its texts as Arrow has them, an item made when it is asked for.

No object stands for an item, so ten million items take the room of their texts, and where that is
more than memory should hold they lie in a mapped file.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from r2ec import schemas
from r2ec.errors import NotReadyError
from r2ec.logs import get_logger
from r2ec.memory import free_memory, no_room
from r2ec.storage import Warehouse

_LOG = get_logger(__name__)
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
        self._batches = _held(_even(rows, self._batch_rows))
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
        wanted = pa.array(sorted(set(item_ids)), pa.string())
        found: dict[str, int] = {}
        if len(wanted):
            for number, (ids,) in enumerate(self.iter_columns("item_id")):
                rows = np.flatnonzero(pc.is_in(ids, wanted).to_numpy(zero_copy_only=False))
                names = ids.take(pa.array(rows)).to_pylist()
                first = number * self._batch_rows
                found.update(zip(names, (rows + first).tolist(), strict=True))
        return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Catalog:
    """One version of the catalog; `items[i]` is the item with `item_index` i."""

    version: str
    items: CatalogItems
    _prefixes: dict[int, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, version: str, items: Iterable[CatalogItem]) -> "Catalog":
        """The catalog of these items, in their order; their own `item_index` is not looked at."""
        rows = [{name: getattr(item, name) for name in _COLUMNS} for item in items]
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
        # Another writer's order: the whole of it has to be in memory once.
        table = warehouse.read_table(schemas.CATALOG, version=chosen)
        rows = iter(table.sort_by("item_index").select(_COLUMNS).to_batches(_BATCH_ROWS))
    else:
        raise NotReadyError(
            f"catalog version {chosen} in {warehouse.root}: item_index is not dense from 0;"
            " rebuild it with jobs/build_catalog.py"
        )
    return Catalog(version=chosen, items=CatalogItems(rows))


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


def _even(batches: Iterable[pa.RecordBatch], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `batch_rows`, the last one of what is left."""
    held, num_rows = list[pa.RecordBatch](), 0
    for batch in batches:
        while batch.num_rows:
            some = batch.slice(0, batch_rows - num_rows)
            batch = batch.slice(some.num_rows)
            held.append(some)
            num_rows += some.num_rows
            if num_rows == batch_rows:
                yield pa.concat_batches(held)
                held, num_rows = [], 0
    if held:
        yield pa.concat_batches(held)


def _held(batches: Iterator[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """All batches: in memory, or mapped where they would take too much of it."""
    most_bytes = int(_SHARE * free_memory())
    held, num_bytes = list[pa.RecordBatch](), 0
    for batch in batches:
        held.append(batch)
        num_bytes += batch.nbytes
        if num_bytes > most_bytes:
            return _mapped(chain(_drained(held), batches), most_bytes)
    return held


def _drained(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches in order, each let go as it is taken."""
    batches.reverse()
    while batches:
        yield batches.pop()


def _mapped(batches: Iterator[pa.RecordBatch], most_bytes: int) -> list[pa.RecordBatch]:
    """Batches of a file without a name in the folder for temporary files (TMPDIR).

    The system keeps of it in memory what there is room for, and the file goes with its last use.
    """
    folder = tempfile.gettempdir()
    _LOG.info(
        f"the texts of the catalog are kept in a file in {folder}: they take more than the"
        f" {most_bytes:,} bytes of memory that they may"
    )
    with tempfile.NamedTemporaryFile(dir=folder, prefix="r2ec-catalog-") as file:
        sink = pa.OSFile(file.name, "wb")
        writer = _or_no_room(pa.ipc.new_file, sink, _SCHEMA)
        for batch in batches:
            _or_no_room(writer.write_batch, batch)
        _or_no_room(writer.close)
        sink.close()
        rows = pa.ipc.open_file(pa.memory_map(file.name))
        return [rows.get_batch(number) for number in range(rows.num_record_batches)]


def _or_no_room(write: Callable[..., Any], *given: Any) -> Any:
    """Write to the temporary file; what reading the batches raises is not meant."""
    try:
        return write(*given)
    except OSError as error:
        raise no_room("the texts of the catalog", error) from error
