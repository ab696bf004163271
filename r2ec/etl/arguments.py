"""The options of the two jobs, turned into what they run on. Options win over the mapping."""

import argparse
import os
import re
from datetime import UTC, date, datetime, timedelta

from r2ec.errors import UsageError
from r2ec.etl.catalog_job import CatalogJob
from r2ec.etl.input_arguments import (
    add_item_options,
    add_log_options,
    has_log,
    item_input,
    log_input,
    micros,
)
from r2ec.etl.mapping import load_mapping
from r2ec.etl.quarantine import MAX_QUARANTINE_SHARE
from r2ec.etl.sequences_input import SequencesJob


def parse_catalog_job(argv: list[str] | None = None) -> CatalogJob:
    """The catalog job of a command line; UsageError for a value that can't be meant."""
    parser = _parser("build_catalog.py", "Item metadata and the log in, one catalog version out.")
    add_item_options(parser)
    _add_common(parser, log_required=False)
    parser.add_argument("--version", metavar="D", help="ISO day (the log's last one)")
    parser.add_argument(
        "--unknown-items",
        choices=("quarantine", "keep"),
        default="quarantine",
        help="items of the log without metadata: leave them out, so that build_sequences puts "
        "their rows to quarantine (default), or append them with an empty text",
    )
    _add_register(parser)
    args = parser.parse_args(argv)
    mapping = load_mapping(args.mapping)
    log = log_input(args, mapping["interactions"]) if has_log(args) else None
    if log is None and args.version is None:
        raise UsageError("without --interactions the catalog needs a --version (an ISO day)")
    return CatalogJob(
        items=item_input(args, mapping["items"], log),
        interactions=log,
        warehouse=_warehouse(args),
        version=_day(args.version, "--version").isoformat() if args.version else None,
        unknown_items=args.unknown_items,
        register=_database(args.register),
        dry_run=args.dry_run,
        explain=args.explain,
        max_quarantine_share=_share(args),
    )


def parse_sequences_job(argv: list[str] | None = None) -> SequencesJob:
    """The sequences job of a command line; UsageError for a value that can't be meant."""
    parser = _parser("build_sequences.py", "The log in; sequences, histories and quarantine out.")
    _add_common(parser, log_required=True)
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
    parser.add_argument(
        "--incremental",
        action="store_true",
        help="add the histories of --date to those of the day before, reading the log's new files",
    )
    parser.add_argument("--split-ratio", default="0.8,0.1,0.1", metavar="T,V,T", help="0.8,0.1,0.1")
    parser.add_argument(
        "--unknown-items",
        choices=("quarantine", "drop"),
        default="quarantine",
        help="events of items that the catalog lacks: to quarantine (default), or only counted",
    )
    _add_register(parser)
    args = parser.parse_args(argv)
    for name in ("window", "min_user_events", "min_item_events", "max_user_events_per_day"):
        value = getattr(args, name)
        if value is not None and value < 1:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {value}: give a whole number from 1")
    mapping = load_mapping(args.mapping)
    version = args.catalog_version
    return SequencesJob(
        interactions=log_input(args, mapping["interactions"]),
        warehouse=_warehouse(args),
        catalog_version=_day(version, "--catalog-version").isoformat() if version else None,
        dates=tuple(sorted({_day(text, "--date") for text in args.date})),
        window=args.window,
        min_user_events=args.min_user_events,
        min_item_events=args.min_item_events,
        since=micros(args.since, "--since"),
        until=micros(args.until, "--until"),
        strict_time=args.strict_time,
        max_user_events_per_day=args.max_user_events_per_day,
        incremental=args.incremental,
        unknown_items=args.unknown_items,
        register=_database(args.register),
        dry_run=args.dry_run,
        explain=args.explain,
        split_ratio=_ratio(args.split_ratio),
        max_quarantine_share=_share(args),
    )


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=name, description=description, allow_abbrev=False)


def _add_common(parser: argparse.ArgumentParser, *, log_required: bool) -> None:
    add_log_options(parser, required=log_required)
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
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be read and written; read no row"
    )
    parser.add_argument(
        "--explain", action="store_true", help="print Spark's plans (those of all queries it ran)"
    )


def _add_register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--register",
        metavar="DB",
        help="make the tables known to Spark's catalog, in this database",
    )


def _database(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise UsageError(f"--register {name!r}: a database's name has letters, digits and _ alone")
    return name


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
    if text == "yesterday":  # the last day that is over in UTC, for what runs every night
        return datetime.now(UTC).date() - timedelta(days=1)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text!r}: give an ISO day such as 2024-01-31") from None
