"""A small shop as tables: catalog, sequences of all splits, histories of one date."""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from r2ec import schemas
from r2ec.catalog import Catalog
from r2ec.storage import Warehouse
from r2ec.tables import Example, History
from tests.factories.models import examples_of, small_catalog

DATE = "2024-05-31"


def write_shop(root: str, *, num_users: int = 24, num_items: int = 30) -> Catalog:
    """Write every table that training and scoring read; returns the catalog."""
    warehouse = Warehouse(root)
    catalog = small_catalog(num_items)
    write_catalog(warehouse, catalog)
    examples = examples_of(catalog, num_users)
    for place, split in enumerate(schemas.SPLITS):
        write_examples(warehouse, split, examples_of(catalog, num_users, seed=place + 1))
    write_histories(warehouse, [example.history for example in examples])
    return catalog


def write_catalog(warehouse: Warehouse, catalog: Catalog) -> None:
    names = schemas.CATALOG.schema.names
    rows = [{name: _or_none(getattr(item, name, None)) for name in names} for item in catalog.items]
    table = pa.Table.from_pylist(rows, schema=schemas.CATALOG.schema)
    warehouse.write_parquet(table, "catalog", f"version={catalog.version}", "part-0.parquet")


def _or_none(value: object) -> object:
    """As the job writes what is missing."""
    return None if value == "" else value


def write_examples(warehouse: Warehouse, split: str, examples: Sequence[Example]) -> None:
    rows = [
        {
            "sequence_id": example.sequence_id,
            **_history(example.history),
            "target_item_index": example.target_index,
            "target_rating": 5.0,
            "target_time": example.history.now,
        }
        for example in examples
    ]
    table = pa.Table.from_pylist(rows, schema=schemas.SEQUENCES.schema)
    warehouse.write_parquet(table, "sequences", f"split={split}", "part-0.parquet")


def write_histories(
    warehouse: Warehouse, histories: Sequence[History], *, date: str = DATE
) -> None:
    rows = [
        {**_history(history), "history_hash": history.history_hash}
        for history in sorted(histories, key=lambda history: history.user_id)
    ]
    table = pa.Table.from_pylist(rows, schema=schemas.HISTORIES.schema)
    warehouse.write_parquet(table, "histories", f"date={date}", "part-0.parquet")


def longer_catalog(catalog: Catalog, extra: int) -> Catalog:
    """A later version: the same items first, then new ones."""
    items = small_catalog(catalog.num_items + extra).items[catalog.num_items :]
    return Catalog.of("2024-06-30", (*catalog.items, *items))


def other_catalog(catalog: Catalog) -> Catalog:
    """A catalog of the same length whose first item is another."""
    first = replace(catalog.items[0], item_id="ANOTHER")
    return Catalog.of("2024-07-31", (first, *catalog.items[1:]))


def _history(history: History) -> dict[str, object]:
    return {
        "user_id": history.user_id,
        "history_item_index": list(history.item_index),
        "history_rating": list(history.rating),
        "history_time": list(history.time),
    }
