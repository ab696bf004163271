"""The catalog: item metadata merged and cleaned, with indices that never change."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.types import DoubleType, StringType, StructField, StructType

from r2ec.etl.events import cancelled, plain_id
from r2ec.etl.files import InputFile, resolve
from r2ec.etl.inputs import ITEM_FIELDS, ItemInput
from r2ec.etl.item_text import item_text
from r2ec.etl.rows import as_text, read_rows
from r2ec.etl.times import micros

TEXT_COLUMNS = ("title", "description", "category", "store", "price", "text_hash")
TEXT_TYPE = StructType(
    [StructField(name, DoubleType() if name == "price" else StringType()) for name in TEXT_COLUMNS]
)


def read_items(spark: SparkSession, files: list[InputFile], items: ItemInput) -> DataFrame:
    """One row per input row: `item_id`, the raw metadata columns, `place`, `line`, `reason`.

    `updated` has the time of the row in microseconds where the metadata has one.
    """
    columns = resolve(files, items.columns())
    return read_rows(spark, files, columns, lambda rows: _item_rows(rows, items))


def merge_items(items: DataFrame) -> DataFrame:
    """One row per item: of each metadata column the newest value that is not empty.

    Newest is the latest by `updated`, then the last in the input; rows without that time are the
    oldest. `is_conflicting` says that the values of some column differ.
    """
    newest = F.struct("updated", "place")
    values = [F.max_by(n, F.when(_has_value(F.col(n)), newest)).alias(n) for n in ITEM_FIELDS]
    differ = [
        F.coalesce(F.min(_fingerprint(name)) != F.max(_fingerprint(name)), F.lit(False))
        for name in ITEM_FIELDS
    ]
    is_conflicting = reduce(Column.__or__, differ).alias("is_conflicting")
    good = items.where(F.col("reason").isNull())
    return good.groupBy("item_id").agg(*values, is_conflicting)


def with_text(items: DataFrame, categories_separator: str | None) -> DataFrame:
    """Clean the raw metadata: `item_id`, the text columns of the catalog, `is_conflicting`."""
    # The kind of function is read off its type hints; the stubs want it named as well.
    make_udf: Any = arrow_udf
    cleaned = make_udf(_clean_batch(categories_separator), TEXT_TYPE)
    texts = items.select("item_id", "is_conflicting", cleaned(*ITEM_FIELDS).alias("text"))
    columns = [F.col("text")[name].alias(name) for name in TEXT_COLUMNS]
    return texts.select("item_id", "is_conflicting", *columns)


def assign_indices(items: DataFrame, previous: DataFrame | None) -> DataFrame:
    """Each item's `item_id` and `item_index`: as before, or after the highest, by `item_id`.

    The new ids go through one sorted partition, keys only: a row's number is then its index.
    """
    new, first_index = items.select("item_id"), 0
    if previous is not None:
        new = new.join(previous.select("item_id"), on="item_id", how="left_anti")
        highest = previous.agg(F.max("item_index")).first()
        first_index = 0 if highest is None or highest[0] is None else highest[0] + 1
    ordered = new.repartition(1).sortWithinPartitions("item_id")
    numbered = ordered.withColumn("item_index", F.monotonically_increasing_id() + first_index)
    if previous is None:
        return numbered
    return previous.select("item_id", "item_index").unionByName(numbered)


def build_catalog(texts: DataFrame, first_seen: DataFrame, previous: DataFrame | None) -> DataFrame:
    """The catalog's rows sorted by `item_index`.

    `texts` has the items with metadata (or with an empty text), `first_seen` the first event of
    each item in the log (`item_id`, `time` in microseconds). An item of the previous version that
    has no metadata any more stays as it was.
    """
    indices = assign_indices(texts, previous)
    joined = indices.join(texts.withColumn("is_new", F.lit(True)), on="item_id", how="left")
    joined = joined.join(first_seen, on="item_id", how="left")
    seen = F.timestamp_micros("time")
    if previous is None:
        columns: list[Column | str] = [*TEXT_COLUMNS[:-1], seen.alias("first_seen"), "text_hash"]
    else:
        old = previous.select("item_id", *[F.col(c).alias(f"old_{c}") for c in _CARRIED])
        joined = joined.join(old, on="item_id", how="left")
        text = {
            name: F.when(F.col("is_new"), F.col(name)).otherwise(F.col(f"old_{name}")).alias(name)
            for name in TEXT_COLUMNS
        }
        earliest = F.least(seen, F.col("old_first_seen")).alias("first_seen")
        columns = [*[text[name] for name in TEXT_COLUMNS[:-1]], earliest, text["text_hash"]]
    return joined.select("item_index", "item_id", *columns).orderBy("item_index")


_CARRIED = (*TEXT_COLUMNS, "first_seen")


def _item_rows(rows: DataFrame, items: ItemInput) -> DataFrame:
    types = {field.name: field.dataType for field in rows.schema.fields}
    item_id = plain_id(F.col("item"), types["item"])
    updated = F.lit(None).cast("bigint")
    if "updated" in types:
        updated = micros(F.col("updated"), types["updated"], items.time_unit, items.time_format)
    missing = F.when(F.coalesce(item_id, F.lit("")) == "", "missing_item")
    nul_byte = F.when(item_id.contains("\0"), "nul_byte")
    purchase = cancelled(types, items.cancelled_prefix)
    reason = F.coalesce(F.col("reason"), purchase, missing, nul_byte)
    return rows.select(
        item_id.alias("item_id"),
        *[as_text(F.col(name), types[name]).alias(name) for name in ITEM_FIELDS],
        updated.alias("updated"),
        "place",
        F.when(reason.isNotNull(), F.col("line")).alias("line"),
        reason.alias("reason"),
    )


def _fingerprint(name: str) -> Column:
    return F.when(_has_value(F.col(name)), F.xxhash64(name))


def _has_value(raw: Column) -> Column:
    return ~F.coalesce(F.trim(raw), F.lit("")).isin("", "[]", "null", "{}")


def _clean_batch(separator: str | None) -> Callable[..., pa.Array]:
    def clean(
        title: pa.Array,
        description: pa.Array,
        features: pa.Array,
        categories: pa.Array,
        main_category: pa.Array,
        store: pa.Array,
        price: pa.Array,
    ) -> pa.Array:
        columns = (title, description, features, categories, main_category, store, price)
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        cleaned = []
        for row in rows:
            raw = dict(zip(ITEM_FIELDS, row, strict=True))
            text = item_text(**raw, categories_separator=separator)
            values = {name: getattr(text, name) for name in TEXT_COLUMNS[:-1]}
            cleaned.append(values | {"text_hash": text.text_hash()})
        kinds = [(n, pa.float64() if n == "price" else pa.string()) for n in TEXT_COLUMNS]
        return pa.array(cleaned, type=pa.struct(kinds))

    return clean
