"""The options of the two jobs, turned into what they run on. Options win over the mapping."""

import argparse
import os
from dataclasses import fields
from datetime import UTC, date, datetime
from typing import Any

from r2ec.errors import UsageError
from r2ec.etl.catalog_job import CatalogJob
from r2ec.etl.inputs import FORMATS, ITEM_FIELDS, TIME_UNITS, InteractionInput, ItemInput
from r2ec.etl.mapping import load_mapping
from r2ec.etl.quarantine import MAX_QUARANTINE_SHARE
from r2ec.etl.sequences_job import SequencesJob

LOG_OPTIONS = {
    "interactions_format": "format",
    "delimiter": "delimiter",
    "user_column": "user_column",
    "item_column": "item_column",
    "rating_column": "rating_column",
    "time_column": "time_column",
    "time_unit": "time_unit",
    "order_by": "order_by",
}
ITEM_OPTIONS = {
    "items_format": "format",
    "items_delimiter": "delimiter",
    "items_item_column": "item_column",
    "categories_separator": "categories_separator",
} | {f"{name}_column": f"{name}_column" for name in ITEM_FIELDS}


def parse_catalog_job(argv: list[str] | None = None) -> CatalogJob:
    """The catalog job of a command line; UsageError for a value that can't be meant."""
    parser = _parser("build_catalog.py", "Item metadata and the log in, one catalog version out.")
    items = parser.add_argument_group("metadata: one row per item")
    items.add_argument(
        "--items", nargs="+", required=True, metavar="PATH", help="files, folders, globs"
    )
    items.add_argument("--items-format", choices=FORMATS, help="by the file's name if not given")
    items.add_argument(
        "--items-delimiter", metavar="CHAR", help="of CSV files (',', in .tsv a tab)"
    )
    items.add_argument("--items-item-column", metavar="NAME", help="the item's id (as in the log)")
    for name in ITEM_FIELDS:
        option = f"--{name.replace('_', '-')}-column"
        items.add_argument(option, metavar="NAME", help=f"default {name}; may be absent")
    items.add_argument("--categories-separator", metavar="CHAR", help="where a text lists them")
    _add_log(parser, required=False)
    parser.add_argument("--version", metavar="D", help="ISO day (the log's last one)")
    parser.add_argument(
        "--unknown-items",
        choices=("quarantine", "keep"),
        default="quarantine",
        help="items of the log without metadata: leave them out, so that build_sequences puts "
        "their rows to quarantine (default), or append them with an empty text",
    )
    args = parser.parse_args(argv)
    mapping = load_mapping(args.mapping)
    log = _log_input(args, mapping["interactions"]) if args.interactions else None
    if log is None and args.version is None:
        raise UsageError("without --interactions the catalog needs a --version (an ISO day)")
    settings, named = _settings(args, ItemInput, ITEM_OPTIONS, mapping["items"])
    if "item_column" not in settings and log is not None:
        settings["item_column"] = log.item_column
    return CatalogJob(
        items=ItemInput(paths=tuple(args.items), named=named, **settings),
        interactions=log,
        warehouse=_warehouse(args),
        version=_day(args.version, "--version").isoformat() if args.version else None,
        unknown_items=args.unknown_items,
        max_quarantine_share=_share(args),
    )


def parse_sequences_job(argv: list[str] | None = None) -> SequencesJob:
    """The sequences job of a command line; UsageError for a value that can't be meant."""
    parser = _parser("build_sequences.py", "The log in; sequences, histories and quarantine out.")
    _add_log(parser, required=True)
    parser.add_argument("--catalog-version", metavar="D", help="default: the latest")
    parser.add_argument(
        "--date",
        action="append",
        default=[],
        metavar="D",
        help="a day of histories; may be repeated",
    )
    parser.add_argument("--window", type=int, default=20, help="most events of a history (20)")
    parser.add_argument(
        "--min-user-events", type=int, default=1, metavar="N", help="k-core (1: off)"
    )
    parser.add_argument(
        "--min-item-events", type=int, default=1, metavar="N", help="k-core (1: off)"
    )
    parser.add_argument("--since", metavar="TIME", help="first ISO day or time of the log to keep")
    parser.add_argument(
        "--until", metavar="TIME", help="ISO day or time before which events are kept"
    )
    parser.add_argument(
        "--strict-time", action="store_true", help="no event at the target's own time in a history"
    )
    parser.add_argument(
        "--max-user-events-per-day",
        type=int,
        metavar="N",
        help="a user with more on any day (UTC) is a robot: all their events go to quarantine",
    )
    parser.add_argument("--split-ratio", default="0.8,0.1,0.1", metavar="T,V,T", help="0.8,0.1,0.1")
    args = parser.parse_args(argv)
    for name in ("window", "min_user_events", "min_item_events", "max_user_events_per_day"):
        value = getattr(args, name)
        if value is not None and value < 1:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {value}: give a whole number from 1")
    mapping = load_mapping(args.mapping)
    version = args.catalog_version
    return SequencesJob(
        interactions=_log_input(args, mapping["interactions"]),
        warehouse=_warehouse(args),
        catalog_version=_day(version, "--catalog-version").isoformat() if version else None,
        dates=tuple(sorted({_day(text, "--date") for text in args.date})),
        window=args.window,
        min_user_events=args.min_user_events,
        min_item_events=args.min_item_events,
        since=_micros(args.since, "--since"),
        until=_micros(args.until, "--until"),
        strict_time=args.strict_time,
        max_user_events_per_day=args.max_user_events_per_day,
        split_ratio=_ratio(args.split_ratio),
        max_quarantine_share=_share(args),
    )


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=name, description=description, allow_abbrev=False)


def _add_log(parser: argparse.ArgumentParser, *, required: bool) -> None:
    log = parser.add_argument_group("log: one row per event")
    log.add_argument(
        "--interactions", nargs="+", required=required, metavar="PATH", help="files, folders, globs"
    )
    log.add_argument(
        "--interactions-format", choices=FORMATS, help="by the file's name if not given"
    )
    log.add_argument("--delimiter", metavar="CHAR", help="of CSV files (',', in .tsv a tab)")
    log.add_argument("--user-column", metavar="NAME", help="default user_id")
    log.add_argument("--item-column", metavar="NAME", help="default parent_asin")
    log.add_argument("--rating-column", metavar="NAME", help="default rating; may be absent")
    log.add_argument("--time-column", metavar="NAME", help="default timestamp")
    log.add_argument("--time-unit", choices=TIME_UNITS, help="default ms; since 1970, or ISO texts")
    log.add_argument("--order-by", metavar="NAME", help="column that orders events of one time")
    parser.add_argument(
        "--mapping", metavar="FILE", help="TOML of column names; or by name: amazon2023, movielens"
    )
    parser.add_argument(
        "--warehouse", metavar="ROOT", help="path or s3://…; default R2EC_WAREHOUSE"
    )
    parser.add_argument(
        "--max-quarantine-share",
        type=float,
        default=MAX_QUARANTINE_SHARE,
        metavar="X",
        help=f"largest share of rejected rows, 0 to 1 ({MAX_QUARANTINE_SHARE})",
    )


def _log_input(args: argparse.Namespace, mapping: dict[str, str]) -> InteractionInput:
    settings, named = _settings(args, InteractionInput, LOG_OPTIONS, mapping)
    return InteractionInput(paths=tuple(args.interactions), named=named, **settings)


def _settings(
    args: argparse.Namespace,
    kind: type[InteractionInput] | type[ItemInput],
    options: dict[str, str],
    mapping: dict[str, str],
) -> tuple[dict[str, Any], frozenset[str]]:
    """What the mapping and, above it, the options say; and the names that were asked for.

    A mapping that repeats a default asks for nothing: ready ones serve shops with fewer columns.
    """
    defaults = {field.name: field.default for field in fields(kind)}
    given = {field: getattr(args, option) for option, field in options.items()}
    settings = mapping | {field: value for field, value in given.items() if value is not None}
    if len(settings.get("delimiter", ",").encode().decode("unicode_escape")) != 1:
        raise UsageError(f"delimiter {settings['delimiter']!r}: give one character (a tab: '\\t')")
    if "delimiter" in settings:
        settings["delimiter"] = settings["delimiter"].encode().decode("unicode_escape")
    asked_for = {field for field, value in given.items() if value is not None}
    differing = {field for field, value in mapping.items() if value != defaults[field]}
    return settings, frozenset(asked_for | differing)


def _warehouse(args: argparse.Namespace) -> str:
    root = args.warehouse or os.environ.get("R2EC_WAREHOUSE")
    if not root:
        raise UsageError("where is the warehouse? Give --warehouse, or set R2EC_WAREHOUSE")
    return str(root)


def _share(args: argparse.Namespace) -> float:
    share = float(args.max_quarantine_share)
    if not 0 <= share <= 1:
        raise UsageError(f"--max-quarantine-share {share:g}: give a share between 0 and 1")
    return share


def _ratio(text: str) -> tuple[float, float, float]:
    try:
        train, valid, test = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--split-ratio {text!r}: give three shares such as 0.8,0.1,0.1") from None
    if min(train, valid, test) < 0 or train <= 0 or abs(train + valid + test - 1) > 1e-6:
        raise UsageError(f"--split-ratio {text!r}: the shares must not be negative and sum to 1")
    return train, valid, test


def _day(text: str, option: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text!r}: give an ISO day such as 2024-01-31") from None


def _micros(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text!r}: give an ISO day or time (UTC)") from None
    moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    return round(moment.timestamp() * 1_000_000)
