"""Typed readers of the warehouse's tables for training and scoring.

Times are integer microseconds since 1970 (UTC). Lists are oldest first.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from r2ec import schemas
from r2ec.errors import NotReadyError
from r2ec.storage import Warehouse


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """One version of the catalog; row i of every column is the item with `item_index` i."""

    version: str
    items: tuple[CatalogItem, ...]
    _prefixes: dict[int, str] = field(default_factory=dict, compare=False, repr=False)

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
            digest = hashlib.sha256()
            for item in self.items[:length]:
                digest.update(item.item_id.encode())
                digest.update(b"\0")
            self._prefixes[length] = digest.hexdigest()[:16]
        return self._prefixes[length]

    def text_fingerprint(self) -> str:
        """Hash of all ids and texts, in index order: the same exactly when every prompt would be.

        A version that appended nothing and changed no text has that of the version before.
        """
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(f"{item.item_id}\0{item.text_hash}\0".encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """A user's last items before `now` (microseconds), oldest first; never more than W.

    `fault` says what is wrong with the row it was read from; its lists are empty then.
    """

    user_id: str
    item_index: tuple[int, ...]
    rating: tuple[float | None, ...]
    time: tuple[int, ...]
    now: int
    history_hash: str = ""
    fault: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A history and the item that came next; `history.now` is the target's time."""

    sequence_id: int
    history: History
    target_index: int


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
    table = warehouse.read_table(schemas.CATALOG, version=chosen).sort_by("item_index")
    index = table.column("item_index")
    if table.num_rows == 0:
        raise NotReadyError(f"catalog version {chosen} in {warehouse.root} holds no items")
    if pc.any(pc.not_equal(index, pa.array(range(table.num_rows)))).as_py():
        raise NotReadyError(
            f"catalog version {chosen} in {warehouse.root}: item_index is not dense from 0;"
            " rebuild it with jobs/build_catalog.py"
        )
    columns = [
        table.column(name).to_pylist()
        for name in ("item_id", "title", "description", "category", "store", "price", "text_hash")
    ]
    items = tuple(
        CatalogItem(
            item_index=row,
            item_id=item_id,
            title=title or "",
            description=description or "",
            category=category or "",
            store=store or "",
            price=price,
            text_hash=text_hash,
        )
        for row, (item_id, title, description, category, store, price, text_hash) in enumerate(
            zip(*columns, strict=True)
        )
    )
    return Catalog(version=chosen, items=items)


def load_examples(warehouse: Warehouse, split: str) -> list[Example]:
    """All rows of a split of `sequences` (`train`, `valid`, `test`), ordered by `sequence_id`.

    Raises `NotReadyError` if the split is not there, or a history in it is broken or empty.
    """
    table = warehouse.read_table(schemas.SEQUENCES, split=split).sort_by("sequence_id")
    examples = list(_examples(table))
    for example in examples:
        if not example.history.item_index:
            raise NotReadyError(
                f"sequences/split={split} of {warehouse.root}: sequence {example.sequence_id} of"
                f" user {example.history.user_id!r}: {example.history.fault or 'no history'}; build"
                " it again with jobs/build_sequences.py"
            )
    return examples


def check_targets(examples: Sequence[Example], catalog: Catalog) -> None:
    """Raise `NotReadyError` for a target that the catalog does not hold."""
    for example in examples:
        if not 0 <= example.target_index < catalog.num_items:
            raise NotReadyError(
                f"sequence {example.sequence_id} has the target item_index {example.target_index},"
                f" but catalog version {catalog.version} holds {catalog.num_items} items; build the"
                " catalog first, then the sequences"
            )


def iter_histories(
    warehouse: Warehouse, date: str, now: int, *, batch_rows: int = 8192
) -> Iterator[History]:
    """The users of `histories/date=D` in file order; `now` is the end of D in microseconds.

    A row whose lists are broken comes with its `fault`, for others are to be scored all the same.
    """
    for batch in warehouse.iter_batches(schemas.HISTORIES, batch_rows=batch_rows, date=date):
        yield from histories_of(pa.Table.from_batches([batch]), now)


def histories_of(rows: pa.Table, now: int) -> Iterator[History]:
    """Rows of `histories` as objects; `now` as in `iter_histories`."""
    return _histories(rows, [now] * rows.num_rows)


def _examples(table: pa.Table) -> Iterator[Example]:
    targets = table.column("target_item_index").to_pylist()
    ids = table.column("sequence_id").to_pylist()
    times = table.column("target_time").cast(pa.int64()).to_pylist()
    for sequence_id, target, history in zip(ids, targets, _histories(table, times), strict=True):
        yield Example(sequence_id=sequence_id, history=history, target_index=target)


def _histories(table: pa.Table, now: list[int]) -> Iterator[History]:
    users = table.column("user_id").to_pylist()
    items = table.column("history_item_index").to_pylist()
    ratings = table.column("history_rating").to_pylist()
    times = table.column("history_time").cast(pa.list_(pa.int64())).to_pylist()
    hashes = (
        table.column("history_hash").to_pylist()
        if "history_hash" in table.column_names
        else [""] * table.num_rows
    )
    for user, item, rating, time, moment, digest in zip(
        users, items, ratings, times, now, hashes, strict=True
    ):
        fault = _fault(item, rating, time)
        yield History(
            user_id=user,
            item_index=() if fault else tuple(item),
            rating=() if fault else tuple(rating),
            time=() if fault else tuple(time),
            now=moment,
            history_hash=digest,
            fault=fault,
        )


def _fault(item: list[int] | None, rating: list[float] | None, time: list[int] | None) -> str:
    """What is wrong with the lists of a history, or nothing."""
    named = {"history_item_index": item, "history_rating": rating, "history_time": time}
    for name, values in named.items():
        if values is None or (name != "history_rating" and None in values):
            return f"{name} is null or holds a null"
    lengths = {name: len(values or ()) for name, values in named.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        return f"the lists of the history are not of one length: {told}"
    return ""
