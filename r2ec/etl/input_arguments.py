"""The options that say where a job's rows are and what their columns mean."""

import argparse
import codecs
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from r2ec.errors import UsageError
from r2ec.etl.inputs import FORMATS, ITEM_FIELDS, TIME_UNITS, InteractionInput, ItemInput
from r2ec.etl.mapping import READY

# What separates rows and values, and what values of numbers are made of.
_ASCII = '\n\r\t,;|:"0123456789'
LOG_OPTIONS = {
    "interactions_format": "format",
    "delimiter": "delimiter",
    "quote": "quote",
    "encoding": "encoding",
    "column_names": "column_names",
    "multi_line": "multi_line",
    "user_column": "user_column",
    "item_column": "item_column",
    "rating_column": "rating_column",
    "time_column": "time_column",
    "time_unit": "time_unit",
    "time_format": "time_format",
    "order_by": "order_by",
    "keep_column": "keep_column",
    "keep_values": "keep_values",
    "quantity_column": "quantity_column",
    "invoice_column": "invoice_column",
    "min_rating": "min_rating",
    "max_rating": "max_rating",
}
ITEM_OPTIONS = {
    "items_format": "format",
    "items_delimiter": "delimiter",
    "items_quote": "quote",
    "items_encoding": "encoding",
    "items_column_names": "column_names",
    "items_multi_line": "multi_line",
    "items_item_column": "item_column",
    "categories_separator": "categories_separator",
    "updated_column": "updated_column",
} | {f"{name}_column": f"{name}_column" for name in ITEM_FIELDS}


def add_log_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """The options of the log, and the mapping's."""
    log = parser.add_argument_group("log: one row per event")
    where = log.add_mutually_exclusive_group(required=required)
    where.add_argument("--interactions", nargs="+", metavar="PATH", help="files, folders, globs")
    where.add_argument("--interactions-table", metavar="NAME", help="a table of Spark's catalog")
    log.add_argument(
        "--interactions-format", choices=FORMATS, help="by the file's name if not given"
    )
    log.add_argument(
        "--delimiter", metavar="CHAR", help="of CSV files (',', in .tsv a tab); also as '::'"
    )
    log.add_argument("--quote", metavar="CHAR", help="of CSV files ('\"'); none: quotes are text")
    log.add_argument("--encoding", metavar="NAME", help="of text files (utf-8), as latin-1")
    log.add_argument(
        "--column-names", type=_names, metavar="A,B,…", help="columns of CSV files without a header"
    )
    log.add_argument(
        "--multi-line",
        action="store_true",
        default=None,
        help="quoted values of CSV files may hold line breaks (one task a file)",
    )
    log.add_argument("--user-column", metavar="NAME", help="default user_id")
    log.add_argument("--item-column", metavar="NAME", help="default parent_asin")
    log.add_argument("--rating-column", metavar="NAME", help="default rating; may be absent")
    log.add_argument("--time-column", metavar="NAME", help="default timestamp")
    log.add_argument("--time-unit", choices=TIME_UNITS, help="default ms; since 1970, or ISO texts")
    log.add_argument(
        "--time-format", metavar="PATTERN", help="of times that are no ISO texts, as M/d/yyyy H:mm"
    )
    log.add_argument("--order-by", metavar="NAME", help="column that orders events of one time")
    log.add_argument("--keep-column", metavar="NAME", help="only rows of some values in it")
    log.add_argument(
        "--keep-values", type=_names, metavar="A,B,…", help="those values, such as purchase"
    )
    log.add_argument("--quantity-column", metavar="NAME", help="0 or less: a cancelled purchase")
    log.add_argument("--invoice-column", metavar="NAME", help="begins with C: a cancelled purchase")
    log.add_argument("--min-rating", type=float, metavar="X", help="lowest rating there may be")
    log.add_argument("--max-rating", type=float, metavar="X", help="highest rating there may be")
    log.add_argument(
        "--max-time", metavar="TIME", help="latest ISO day or time of an event (tomorrow)"
    )
    parser.add_argument(
        "--skip-broken-files",
        action="store_true",
        help="read each file once to see whether it can be read, and go on without those that can't"
        " (each a row of the quarantine)",
    )
    parser.add_argument(
        "--mapping", metavar="FILE", help=f"TOML of columns; or by name: {', '.join(READY)}"
    )


def add_item_options(parser: argparse.ArgumentParser) -> None:
    """The options of the metadata."""
    items = parser.add_argument_group("metadata: one row per item")
    where = items.add_mutually_exclusive_group(required=True)
    where.add_argument("--items", nargs="+", metavar="PATH", help="files, folders, globs")
    where.add_argument("--items-table", metavar="NAME", help="a table of Spark's catalog")
    items.add_argument("--items-format", choices=FORMATS, help="by the file's name if not given")
    items.add_argument(
        "--items-delimiter", metavar="CHAR", help="of CSV files (',', in .tsv a tab)"
    )
    items.add_argument("--items-quote", metavar="CHAR", help="as --quote")
    items.add_argument("--items-encoding", metavar="NAME", help="as --encoding")
    items.add_argument(
        "--items-column-names",
        type=_names,
        metavar="A,B,…",
        help="columns of CSV files without a header",
    )
    items.add_argument(
        "--items-multi-line",
        action="store_true",
        default=None,
        help="quoted values of CSV files may hold line breaks (one task a file)",
    )
    items.add_argument("--items-item-column", metavar="NAME", help="the item's id (as in the log)")
    for name in ITEM_FIELDS:
        option = f"--{name.replace('_', '-')}-column"
        items.add_argument(option, metavar="NAME", help=f"default {name}; may be absent")
    items.add_argument("--categories-separator", metavar="CHAR", help="where a text lists them")
    items.add_argument(
        "--updated-column", metavar="NAME", help="time of a row: the newest of an item wins"
    )


def has_log(args: argparse.Namespace) -> bool:
    """Whether the command line names a log."""
    return bool(args.interactions or args.interactions_table)


def log_input(args: argparse.Namespace, mapping: dict[str, Any]) -> InteractionInput:
    """The log of a command line; UsageError for settings that do not fit together."""
    _check_table(args, "interactions_table", LOG_OPTIONS)
    settings, named = _settings(args, InteractionInput, LOG_OPTIONS, mapping)
    log = InteractionInput(
        paths=tuple(args.interactions or ()),
        table=args.interactions_table,
        skip_broken_files=args.skip_broken_files,
        max_time=micros(args.max_time, "--max-time"),
        named=named,
        **settings,
    )
    if bool(log.keep_column) != bool(log.keep_values):
        raise UsageError("--keep-column and --keep-values go together: give both or neither")
    if log.time_format and log.time_unit != "iso":
        raise UsageError(f"--time-format {log.time_format!r} needs --time-unit iso")
    lowest, highest = log.min_rating, log.max_rating
    if lowest is not None and highest is not None and lowest > highest:
        raise UsageError(f"--min-rating {lowest:g} is above --max-rating {highest:g}")
    return log


def item_input(
    args: argparse.Namespace, mapping: dict[str, Any], log: InteractionInput | None
) -> ItemInput:
    """The metadata of a command line; the id's column is the log's if nothing else is said."""
    _check_table(args, "items_table", ITEM_OPTIONS)
    settings, named = _settings(args, ItemInput, ITEM_OPTIONS, mapping)
    if "item_column" not in settings and log is not None:
        settings["item_column"] = log.item_column
    return ItemInput(
        paths=tuple(args.items or ()),
        table=args.items_table,
        skip_broken_files=args.skip_broken_files,
        named=named,
        **settings,
    )


def micros(text: str | None, option: str) -> int | None:
    """An ISO day or time as microseconds since 1970; UsageError for another text."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text!r}: give an ISO day or time (UTC)") from None
    moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    return round(moment.timestamp() * 1_000_000)


def _settings(
    args: argparse.Namespace,
    kind: type[InteractionInput] | type[ItemInput],
    options: dict[str, str],
    mapping: dict[str, Any],
) -> tuple[dict[str, Any], frozenset[str]]:
    """What the mapping and, above it, the options say; and the names that were asked for.

    A mapping that repeats a default asks for nothing: ready ones serve shops with fewer columns.
    """
    defaults = {field.name: field.default for field in fields(kind)}
    given = {field: getattr(args, option) for option, field in options.items()}
    settings = mapping | {field: value for field, value in given.items() if value is not None}
    for setting, read in (("delimiter", _delimiter), ("quote", _quote), ("encoding", _encoding)):
        if setting in settings:
            settings[setting] = read(settings[setting])
    if settings.get("multi_line") and settings.get("quote") == "":
        raise UsageError("--multi-line has no effect with --quote none; leave one out")
    asked_for = {field for field, value in given.items() if value is not None}
    # Of several names a mapping asks for none: it says what the column is called where it is there.
    differing = {
        field
        for field, value in mapping.items()
        if value != defaults[field] and not isinstance(value, tuple)
    }
    return settings, frozenset(asked_for | differing)


def _check_table(args: argparse.Namespace, table: str, options: dict[str, str]) -> None:
    """Raise UsageError for an option of files beside a table: it would have no effect."""
    of_files = ("format", "delimiter", "quote", "encoding", "column_names", "multi_line")
    for option, field in options.items():
        if getattr(args, table) and field in of_files and getattr(args, option) is not None:
            given, name = (f"--{text.replace('_', '-')}" for text in (option, table))
            raise UsageError(f"{given} is for files, and {name} has its types; leave one out")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _delimiter(text: str) -> str:
    """The separator: one character, or marks that stand together; escapes as in Python."""
    try:
        plain = text.encode("latin-1", "backslashreplace").decode("unicode_escape")
    except UnicodeDecodeError:
        plain = ""
    if len(plain) != 1 and (not plain or any(char.isalnum() for char in plain)):
        raise UsageError(
            f"delimiter {text!r}: give one character (a tab: '\\t'), or marks such as '::'"
        )
    return plain


def _quote(text: str) -> str:
    if text == "none":
        return ""
    if len(text) != 1 or text.isalnum():
        raise UsageError(f"quote {text!r}: give one mark, or none where quotes are plain text")
    return text


def _encoding(text: str) -> str:
    """The encoding by the name that Python and Java share; lines must end as in ASCII."""
    try:
        name = codecs.lookup(text).name
        is_ascii_based = _ASCII.encode(name) == _ASCII.encode("ascii")
    except (LookupError, UnicodeError, TypeError):
        raise UsageError(f"encoding {text!r}: no such encoding; give utf-8, latin-1 …") from None
    if name == "utf-8-sig":
        return "utf-8"
    if not is_ascii_based:
        raise UsageError(
            f"encoding {text!r}: lines cannot be told apart in it; convert the file, as by "
            f"iconv -f {text} -t utf-8"
        )
    return name
