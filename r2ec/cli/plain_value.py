"""A value of a query's result as programs read it: what JSON has, and texts for the rest."""

import math
from datetime import date, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

NANOSECONDS_OF_A_SECOND = 1_000_000_000


def plain(value: Any) -> Any:
    """The value as null, a boolean, number, text, or lists and objects of them.

    Days and times are ISO texts, a decimal is a number, a span of time reads `1 month 3 days
    04:05:06`, bytes are hexadecimal. JSON has no NaN and no infinity: they are null.
    """
    match value:
        case float():
            return value if math.isfinite(value) else None
        case date() | time():  # a datetime is a date
            return value.isoformat()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case pa.MonthDayNano():  # a tuple, so before those
            return span(value)
        case bytes():
            return value.hex()
        case list() | tuple():
            return [plain(part) for part in value]
        case dict():
            return {str(key): plain(part) for key, part in value.items()}
    return value


def span(value: "pa.MonthDayNano") -> str:
    """A span of time in words, as DuckDB writes it: `1 month 3 days 04:05:06`."""
    parts = [
        f"{number} {name}{'' if abs(number) == 1 else 's'}"
        for number, name in ((value.months, "month"), (value.days, "day"))
        if number
    ]
    if value.nanoseconds or not parts:
        seconds, rest = divmod(abs(value.nanoseconds), NANOSECONDS_OF_A_SECOND)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        fraction = f".{rest // 1000:06}" if rest else ""
        parts.append(f"{'-' if value.nanoseconds < 0 else ''}{clock}{fraction}")
    return " ".join(parts)
