"""The logs that a demo runs on: found by their names, and the day that its lists are for."""

import csv
import gzip
import time
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from r2ec.errors import NotReadyError

MAPPINGS = Path(__file__).resolve().parents[2] / "configs" / "mappings"
TIME_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """Where a shop's logs are, and the name of the mapping that reads them."""

    interactions: Path
    items: Path
    mapping: str


def find_shop(folder: Path) -> Shop:
    """Find the logs of a folder by the names of their files.

    Raises `NotReadyError` where neither layout is recognised.
    """
    if not folder.is_dir():
        raise NotReadyError(f"--data {folder}: there is no such folder")
    meta = sorted([*folder.glob("meta_*.jsonl"), *folder.glob("meta_*.jsonl.gz")])
    tables = sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz")])
    if len(meta) == 1 and len(tables) == 1:
        return Shop(interactions=tables[0], items=meta[0], mapping="amazon2023")
    by_name = {path.name.split(".")[0]: path for path in tables}
    if {"ratings", "movies"} <= by_name.keys():
        return Shop(interactions=by_name["ratings"], items=by_name["movies"], mapping="movielens")
    raise NotReadyError(
        f"--data {folder}: expected X.csv[.gz] beside meta_X.jsonl[.gz] (Amazon-Reviews-2023), or"
        " ratings.csv[.gz] beside movies.csv[.gz] (MovieLens). Other layouts: run the commands of"
        " the README with --mapping"
    )


def date_of_share(shop: Shop, share: float) -> str:
    """The ISO day before the one at which `share` of the log's events have happened.

    What was bought after it can then be compared with what is recommended. Raises `NotReadyError`
    for a log without a time.
    """
    mapping = MAPPINGS / f"{shop.mapping}.toml"
    columns = tomllib.loads(mapping.read_text("utf-8"))["interactions"]
    unit = TIME_UNITS[columns["time_unit"]]
    times = []
    opener: Any = gzip.open if shop.interactions.suffix == ".gz" else open
    with opener(shop.interactions, "rt", encoding="utf-8", errors="replace", newline="") as stream:
        for row in csv.DictReader(stream):
            text = row.get(columns["time_column"]) or ""
            if text.isdigit() and 0 < int(text) / unit < time.time():
                times.append(int(text) / unit)
    if not times:
        raise NotReadyError(
            f"{shop.interactions}: no event with a time in column {columns['time_column']!r}"
        )
    at = sorted(times)[int(share * (len(times) - 1))]
    return (datetime.fromtimestamp(at, UTC) - timedelta(days=1)).date().isoformat()
