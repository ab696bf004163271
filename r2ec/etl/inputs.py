"""What a job reads: where the rows are and which column means what."""

from dataclasses import dataclass
from typing import Literal

TimeUnit = Literal["s", "ms", "us", "iso"]
TIME_UNITS: tuple[TimeUnit, ...] = ("s", "ms", "us", "iso")
FORMATS = ("auto", "csv", "jsonl", "parquet", "pydict")

# The name of a column, or several of which the first that the input has is meant.
ColumnName = str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class InteractionInput:
    """The log: one row per user-item event, in files or in a table of Spark's catalog.

    `named` are the settings that the person asked for. `column_names` are the columns of CSV files
    without a header; with `multi_line` a quoted value of theirs may hold line breaks, with an empty
    `quote` no value is quoted. `encoding` is that of all text files. `time_format`
    reads the times that are no ISO texts. Rows whose `keep_column` has none of the `keep_values`
    are no part of the log; rows of a cancelled purchase (a `quantity_column` of 0 or less, an
    `invoice_column` that begins with `cancelled_prefix`) are rejected. `max_time` is in
    microseconds.
    """

    paths: tuple[str, ...] = ()
    table: str | None = None
    format: str = "auto"
    delimiter: str | None = None
    quote: str = '"'
    encoding: str = "utf-8"
    column_names: tuple[str, ...] = ()
    multi_line: bool = False
    skip_broken_files: bool = False
    user_column: ColumnName = "user_id"
    item_column: ColumnName = "parent_asin"
    rating_column: ColumnName = "rating"
    time_column: ColumnName = "timestamp"
    time_unit: TimeUnit = "ms"
    time_format: str | None = None
    order_by: ColumnName | None = None
    keep_column: ColumnName | None = None
    keep_values: tuple[str, ...] = ()
    quantity_column: ColumnName | None = None
    invoice_column: ColumnName | None = None
    cancelled_prefix: str = "C"
    min_rating: float | None = None
    max_rating: float | None = None
    max_time: int | None = None
    named: frozenset[str] = frozenset()

    def where(self) -> str:
        """The paths or the table, for people."""
        return self.table or " ".join(self.paths)

    def columns(self) -> dict[str, ColumnName]:
        """Our name -> the input's column, of those that are to be read."""
        columns = {
            "user": self.user_column,
            "item": self.item_column,
            "rating": self.rating_column,
            "time": self.time_column,
        }
        return columns | _given(self, {"order": "order_by"} | _OPTIONAL)

    def required(self) -> frozenset[str]:
        """Our names of the columns that must be there: a rating or a filter's if asked for."""
        asked = {"rating": "rating_column"} | _OPTIONAL
        named = {name for name, setting in asked.items() if setting in self.named}
        order = {"order"} if self.order_by else set()
        return frozenset({"user", "item", "time"} | named | order)


_OPTIONAL = {
    "keep": "keep_column",
    "quantity": "quantity_column",
    "invoice": "invoice_column",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemInput:
    """The metadata: rows of items, in files or in a table of Spark's catalog.

    All columns may be absent, save the item's id. Of several rows of an item those with a later
    `updated_column` win (`time_unit` and `time_format` as in the log), else those later in the
    input. Rows of a cancelled purchase say nothing of an item.
    """

    paths: tuple[str, ...] = ()
    table: str | None = None
    format: str = "auto"
    delimiter: str | None = None
    quote: str = '"'
    encoding: str = "utf-8"
    column_names: tuple[str, ...] = ()
    multi_line: bool = False
    skip_broken_files: bool = False
    item_column: ColumnName = "parent_asin"
    title_column: ColumnName = "title"
    description_column: ColumnName = "description"
    features_column: ColumnName = "features"
    categories_column: ColumnName = "categories"
    main_category_column: ColumnName = "main_category"
    store_column: ColumnName = "store"
    price_column: ColumnName = "price"
    categories_separator: str | None = None
    updated_column: ColumnName | None = None
    time_unit: TimeUnit = "iso"
    time_format: str | None = None
    quantity_column: ColumnName | None = None
    invoice_column: ColumnName | None = None
    cancelled_prefix: str = "C"
    named: frozenset[str] = frozenset()

    def columns(self) -> dict[str, ColumnName]:
        """Our name -> the input's column, of those that are to be read."""
        columns = {name: getattr(self, f"{name}_column") for name in ("item", *ITEM_FIELDS)}
        return columns | _given(self, _ITEM_OPTIONAL)

    def required(self) -> frozenset[str]:
        """Our names of the columns that must be there: the id and what was asked for."""
        names = (*ITEM_FIELDS, *_ITEM_OPTIONAL)
        return frozenset({"item"} | {name for name in names if f"{name}_column" in self.named})


_ITEM_OPTIONAL = {
    "updated": "updated_column",
    "quantity": "quantity_column",
    "invoice": "invoice_column",
}
ITEM_FIELDS = (
    "title",
    "description",
    "features",
    "categories",
    "main_category",
    "store",
    "price",
)


def _given(settings: object, names: dict[str, str]) -> dict[str, ColumnName]:
    """Our name -> the column of those settings that are set."""
    columns = {name: getattr(settings, setting) for name, setting in names.items()}
    return {name: column for name, column in columns.items() if column}
