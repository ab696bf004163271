"""Which days are published, for somebody who asked for another one."""

from collections.abc import Mapping, Sequence

from r2ec.sql_files import SqlFile
from r2ec.storage import Warehouse

OF_PUBLISHED_RUNS = ("runs", "v_recommendations")
MOST_DAYS = 5


def told_days(days: Sequence[str]) -> str:
    """The last days that are published, in words."""
    return f"published: {', '.join(days[-MOST_DAYS:])}" if days else "none is published yet"


def unpublished_note(file: SqlFile, values: Mapping[str, str], warehouse: Warehouse) -> str | None:
    """What to say of a query over published runs whose `date` is none of them; None where it is.

    Such a query finds no row, or counts nothing: that looks like an answer.
    """
    day = values.get("date")
    if day is None or not set(OF_PUBLISHED_RUNS) & set(file.reads) or "date" not in file.params:
        return None
    days = warehouse.partitions("runs", "date")
    return None if day in days else f"note: {day} is not published ({told_days(days)})"
