"""Times of the inputs as microseconds since 1970, whatever their type and unit."""

from pyspark.errors import PySparkException
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    DataType,
    DateType,
    IntegralType,
    NumericType,
    TimestampNTZType,
    TimestampType,
)

from r2ec.errors import UsageError
from r2ec.etl.inputs import TimeUnit

MICROS: dict[str, int] = {"s": 1_000_000, "ms": 1_000, "us": 1}
UNIT_REASONS = {"s": "time_in_seconds", "ms": "time_in_milliseconds", "us": "time_in_microseconds"}
EARLIEST_MICROS = 1  # times at or before 1970-01-01T00:00:00 are a missing value
LATEST_MICROS = 4_102_444_800_000_000  # 2100-01-01
# A number means a moment of these years in one unit at most: the years of each lie apart.
_MODERN_SECONDS = (946_684_800, 4_102_444_800)  # 2000-01-01, 2100-01-01
_NO_SECONDS = r"([T ]\d{1,2}:\d{2})(Z|[+-]\d{2}:?\d{2})$"
_TIMED = (TimestampType, TimestampNTZType, DateType)


def micros(column: Column, kind: DataType, unit: TimeUnit, time_format: str | None) -> Column:
    """The time in microseconds; null where the value is no time."""
    if isinstance(kind, _TIMED):
        return F.unix_micros(column.cast("timestamp"))
    if isinstance(kind, NumericType) and unit != "iso":
        factor = F.lit(MICROS[unit]).cast("bigint")
        if isinstance(kind, IntegralType):
            return F.try_multiply(column.cast("bigint"), factor)
        return F.round(column.cast("double") * factor).try_cast("bigint")
    text = F.trim(column.cast("string"))
    if unit == "iso":
        iso = F.unix_micros(_iso(text))
        if time_format is None:
            return iso
        return F.coalesce(iso, F.unix_micros(F.try_to_timestamp(text, F.lit(time_format))))
    exact = F.try_multiply(text.try_cast("bigint"), F.lit(MICROS[unit]).cast("bigint"))
    decimal = F.round(text.try_cast("double") * F.lit(MICROS[unit])).try_cast("bigint")
    return F.coalesce(exact, decimal)


def check_time_format(spark: SparkSession, time_format: str | None) -> None:
    """Raise UsageError for a pattern that Spark does not know."""
    if time_format is None:
        return
    try:
        spark.sql("SELECT try_to_timestamp('', :pattern)", {"pattern": time_format}).collect()
    except PySparkException as error:
        raise UsageError(
            f"--time-format {time_format!r} is no pattern that Spark knows; write them as "
            "yyyy-MM-dd HH:mm:ss or M/d/yyyy H:mm"
        ) from error


def is_blank(column: Column, kind: DataType) -> Column:
    """Whether there is no value: null, an empty text, or what a typed column has for none."""
    if isinstance(kind, NumericType):
        return column.isNull() if isinstance(kind, IntegralType) else _missing_number(column)
    if isinstance(kind, _TIMED):
        return column.isNull()
    return F.coalesce(F.trim(column.cast("string")), F.lit("")) == ""


def other_unit(column: Column, kind: DataType, unit: TimeUnit) -> Column | None:
    """The reason of a number that lies in 2000 to 2099 in another unit; null where it does not.

    None when the column has a type that needs no unit.
    """
    if isinstance(kind, _TIMED):
        return None
    number = F.trim(column.cast("string")).try_cast("double")
    if isinstance(kind, NumericType):
        number = column.cast("double")
    first, last = _MODERN_SECONDS
    found = F.lit(None).cast("string")
    for other, reason in UNIT_REASONS.items():
        if other != unit:
            scale = 1_000_000 // MICROS[other]
            within = (number >= first * scale) & (number < last * scale)
            found = F.when(within, reason).otherwise(found)
    return found


def _iso(text: Column) -> Column:
    """The moment of an ISO text; one without seconds may have a zone. A time needs its day."""
    with_seconds = F.regexp_replace(text, _NO_SECONDS, "$1:00$2")
    moment = F.coalesce(text.try_cast("timestamp"), with_seconds.try_cast("timestamp"))
    return F.when(text.rlike(r"^\d{4,6}-\d"), moment)


def _missing_number(column: Column) -> Column:
    return column.isNull() | F.isnan(column.cast("double"))
