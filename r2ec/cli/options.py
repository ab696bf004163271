"""Options that several commands share, and the checks of their values."""

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from r2ec.cli.completion import complete_folder
from r2ec.errors import NotReadyError

if TYPE_CHECKING:
    from r2ec.storage import Warehouse

Command = TypeVar("Command", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A range of numbers, of which `nan` and `inf` are none: no bound would stop `nan`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; raises click.BadParameter for `nan`, `inf` and what is out of the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def check_day(_ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """A day as 2024-05-31, or None. Raises click.BadParameter for anything else.

    `yesterday` is the last day that is over in UTC, for what runs every night.
    """
    if value is None:
        return None
    if value == "yesterday":
        return (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        message = f"{value!r} is not a day; write it as 2024-05-31, or yesterday (UTC)"
        raise click.BadParameter(message, param=option) from None


def warehouse_option(command: Command) -> Command:
    """`--warehouse`: the root of the tables, a local path or s3://bucket/prefix."""
    return click.option(
        "--warehouse",
        envvar="R2EC_WAREHOUSE",
        default="warehouse",
        show_default=True,
        metavar="PATH",
        shell_complete=complete_folder,
        help="Root of the tables: a path or s3://bucket/prefix.",
    )(command)


def existing_warehouse(root: str) -> "Warehouse":
    """The warehouse at `root`. Raises NotReadyError when nothing is there."""
    from r2ec.storage import Warehouse

    warehouse = Warehouse(root)
    if not warehouse.exists():
        raise NotReadyError(
            f"there is no warehouse at {warehouse.path()}: give its place by --warehouse or "
            "R2EC_WAREHOUSE, or build it with spark-submit jobs/build_catalog.py"
        )
    return warehouse


def date_option(command: Command) -> Command:
    """`--date`: the day whose partition is read or written."""
    return click.option(
        "--date",
        "date",
        required=True,
        metavar="DAY",
        callback=check_day,
        help="The day, as 2024-05-31, or yesterday.",
    )(command)


def price_option(command: Command) -> Command:
    """`--price-per-hour`: what one device costs, for the figures in `runs`."""
    return click.option(
        "--price-per-hour",
        envvar="R2EC_PRICE_PER_HOUR",
        type=FiniteRange(min=0),
        metavar="PRICE",
        help="Price of one device for an hour: gives the cost per 1,000 users in `runs`.",
    )(command)
