"""What a job reads: where the files are and which column means what."""

from dataclasses import dataclass
from typing import Literal

TimeUnit = Literal["s", "ms", "us", "iso"]
TIME_UNITS: tuple[TimeUnit, ...] = ("s", "ms", "us", "iso")
FORMATS = ("auto", "csv", "jsonl", "parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class InteractionInput:
    """The log: one row per user-item event. `named` are the columns the person asked for."""

    paths: tuple[str, ...]
    format: str = "auto"
    delimiter: str | None = None
    user_column: str = "user_id"
    item_column: str = "parent_asin"
    rating_column: str = "rating"
    time_column: str = "timestamp"
    time_unit: TimeUnit = "ms"
    order_by: str | None = None
    named: frozenset[str] = frozenset()

    def columns(self) -> dict[str, str]:
        """Our name -> the file's column."""
        columns = {
            "user": self.user_column,
            "item": self.item_column,
            "rating": self.rating_column,
            "time": self.time_column,
        }
        return columns | ({"order": self.order_by} if self.order_by else {})

    def required(self) -> frozenset[str]:
        """Our names of the columns that must be there; the rating only if it was asked for."""
        rating = {"rating"} if "rating_column" in self.named else set()
        order = {"order"} if self.order_by else set()
        return frozenset({"user", "item", "time"} | rating | order)


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemInput:
    """The metadata: one row per item. All columns may be absent, save the item's id."""

    paths: tuple[str, ...]
    format: str = "auto"
    delimiter: str | None = None
    item_column: str = "parent_asin"
    title_column: str = "title"
    description_column: str = "description"
    features_column: str = "features"
    categories_column: str = "categories"
    main_category_column: str = "main_category"
    store_column: str = "store"
    price_column: str = "price"
    categories_separator: str | None = None
    named: frozenset[str] = frozenset()

    def columns(self) -> dict[str, str]:
        """Our name -> the file's column."""
        return {name: getattr(self, f"{name}_column") for name in ("item", *ITEM_FIELDS)}

    def required(self) -> frozenset[str]:
        """Our names of the columns that must be there: the id and what was asked for."""
        named = {name for name in ITEM_FIELDS if f"{name}_column" in self.named}
        return frozenset({"item"} | named)


ITEM_FIELDS = (
    "title",
    "description",
    "features",
    "categories",
    "main_category",
    "store",
    "price",
)
