"""Raw rows of a log made into typed events, or rejected with the first reason against them."""

from datetime import UTC, datetime, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, FractionalType, NumericType

from r2ec.etl.inputs import InteractionInput
from r2ec.etl.times import EARLIEST_MICROS, LATEST_MICROS, is_blank, micros, other_unit

LARGEST_RATING = 1e9


def typed_events(rows: DataFrame, log: InteractionInput) -> DataFrame:
    """`user_id`, `item_id`, `rating`, `time`, the order columns, `place`, `line` and `reason`.

    `rows` has `place`, `line`, `reason` and the log's columns by our names: texts, or values with
    types, which are then used as they are.
    """
    types = {field.name: field.dataType for field in rows.schema.fields}
    if "keep" in types:
        wanted = F.trim(F.col("keep").cast("string")).isin(list(log.keep_values))
        rows = rows.where(F.col("reason").isNotNull() | wanted)
    time = micros(F.col("time"), types["time"], log.time_unit, log.time_format)
    typed = rows.select(
        "place",
        "line",
        _id("user", types["user"]).alias("user_id"),
        _id("item", types["item"]).alias("item_id"),
        _rating(types["rating"]).alias("rating"),
        time.alias("time"),
        *_order_values(log),
        F.coalesce("reason", _purchase_reason(types, log)).alias("reason"),
        is_blank(F.col("rating"), types["rating"]).alias("no_rating"),
        is_blank(F.col("time"), types["time"]).alias("no_time"),
        F.col("time").alias("raw_time"),
    )
    rejected = typed.withColumn("reason", _reason(types["time"], log))
    return rejected.select(
        "user_id",
        "item_id",
        F.when(F.col("reason").isNull() & ~F.col("no_rating"), F.col("rating"))
        .cast("float")
        .alias("rating"),
        "time",
        *[name for name in ("order_number", "order_text") if log.order_by],
        "place",
        "line",
        "reason",
    )


def latest_moment(log: InteractionInput) -> int:
    """The latest time of an event, in microseconds: as given, or the end of tomorrow (UTC)."""
    if log.max_time is not None:
        return log.max_time
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return round((today + timedelta(days=2)).timestamp()) * 1_000_000 - 1


def plain_id(column: Column, kind: DataType) -> Column:
    """An id as text without blanks around it; a whole number that is stored as a float is whole."""
    text = F.trim(column.cast("string"))
    if not isinstance(kind, FractionalType):
        return text
    number = column.cast("double")
    whole = F.when(number == F.floor(number), number.try_cast("bigint").cast("string"))
    return F.when(~F.isnan(number), F.coalesce(whole, text))


def cancelled(types: dict[str, DataType], prefix: str) -> Column:
    """`cancelled` for a line of a cancelled purchase, `bad_quantity` for one without a number."""
    found = F.lit(None).cast("string")
    if "quantity" in types:
        number = F.trim(F.col("quantity").cast("string")).try_cast("double")
        blank = is_blank(F.col("quantity"), types["quantity"])
        unread = ~blank & (number.isNull() | F.isnan(number))
        found = F.when(unread, "bad_quantity").when(number <= 0, "cancelled")
    if "invoice" in types and prefix:
        invoice = F.upper(F.trim(F.col("invoice").cast("string")))
        found = F.coalesce(F.when(invoice.startswith(prefix.upper()), "cancelled"), found)
    return found


def _id(name: str, kind: DataType) -> Column:
    return plain_id(F.col(name), kind)


def _rating(kind: DataType) -> Column:
    if isinstance(kind, NumericType):
        return F.col("rating").cast("double")
    return F.trim(F.col("rating").cast("string")).try_cast("double")


def _purchase_reason(types: dict[str, DataType], log: InteractionInput) -> Column:
    return cancelled(types, log.cancelled_prefix)


def _order_values(log: InteractionInput) -> list[Column]:
    if not log.order_by:
        return []
    text = F.col("order").cast("string")
    return [F.trim(text).try_cast("double").alias("order_number"), text.alias("order_text")]


def _reason(time_kind: DataType, log: InteractionInput) -> Column:
    """The first thing that is wrong with a row; null when it is an event."""
    rating, time = F.col("rating"), F.col("time")
    good_rating = F.coalesce(F.abs(rating) <= LARGEST_RATING, F.lit(False)) & ~F.isnan(rating)
    modern = time.between(946_684_800_000_000, LATEST_MICROS)
    unit = other_unit(F.col("raw_time"), time_kind, log.time_unit)
    checks: list[tuple[Column, str | Column]] = [
        (F.col("reason").isNotNull(), F.col("reason")),
        (_blank("user_id"), "missing_user"),
        (_blank("item_id"), "missing_item"),
        (F.col("user_id").contains("\0") | F.col("item_id").contains("\0"), "nul_byte"),
        (F.col("no_time"), "missing_time"),
    ]
    if unit is not None:
        checks.append((~F.coalesce(modern, F.lit(False)) & unit.isNotNull(), unit))
    checks += [
        (time.isNull(), "bad_time"),
        (~time.between(EARLIEST_MICROS, LATEST_MICROS), "time_out_of_range"),
        (time > latest_moment(log), "time_in_future"),
        (~F.col("no_rating") & ~good_rating, "bad_rating"),
    ]
    if log.min_rating is not None:
        checks.append((~F.col("no_rating") & (rating < log.min_rating), "rating_out_of_range"))
    if log.max_rating is not None:
        checks.append((~F.col("no_rating") & (rating > log.max_rating), "rating_out_of_range"))
    found = F.when(*checks[0])
    for condition, reason in checks[1:]:
        found = found.when(condition, reason)
    return found


def _blank(column: str) -> Column:
    return F.coalesce(F.col(column), F.lit("")) == ""
