"""Typed readers of histories and sequences for training and scoring.

Times are integer microseconds since 1970 (UTC). Lists are oldest first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from r2ec import schemas
from r2ec.catalog import Catalog
from r2ec.errors import NotReadyError
from r2ec.storage import Warehouse

_OBJECTS_AT_ONCE = 512  # rows whose values are Python objects at one time: fifty a row


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
    for first in range(0, rows.num_rows, _OBJECTS_AT_ONCE):
        some = rows.slice(first, _OBJECTS_AT_ONCE)
        yield from _histories(some, [now] * some.num_rows)


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
