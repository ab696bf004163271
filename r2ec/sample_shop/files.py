"""Writes the sample shop: ratings CSV.gz and metadata JSONL.gz as Amazon Reviews 2023 lays them
out, soiled by a stated share, streamed a chunk of users at a time; same seed, same bytes."""

import gzip
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from r2ec import logs
from r2ec.errors import UsageError
from r2ec.sample_shop import purchases as process
from r2ec.sample_shop.items import ITEMS_EXPONENT, Items, build_items, item_id
from r2ec.sample_shop.purchases import Buyers, Purchases
from r2ec.sample_shop.words import item_record

RATINGS_FILE = "Sample_Shop.csv.gz"
METADATA_FILE = "meta_Sample_Shop.jsonl.gz"
README_FILE = "README.txt"
HEADER = "user_id,parent_asin,rating,timestamp"
LEAST_EVENTS = 100

# Shares of the log's events.
UNKNOWN_ITEM_SHARE = 0.005  # the event's item is in no metadata
DUPLICATE_SHARE = 0.01  # the line comes a second time
BROKEN_SHARE = 0.005  # a line beside it that no reader can use
# Shares of the metadata's items.
REPEATED_RECORD_SHARE = 0.003
BROKEN_RECORD_SHARE = 0.002


def write_sample_shop(num_events: int, seed: int, out: Path) -> dict[str, int]:
    """Write the shop's three files into the folder `out` and return the counts of its README.

    Raises UsageError when `num_events` is below 100 or `out` is a file.
    """
    if num_events < LEAST_EVENTS:
        raise UsageError(f"--events {num_events}: a shop needs at least {LEAST_EVENTS} events")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder to write the shop into")
    out.mkdir(parents=True, exist_ok=True)
    items = build_items(num_events, seed)
    counts: Counter[str] = Counter({"events": num_events, "items": len(items)})
    with _gzip_text(out / METADATA_FILE) as stream:
        for text in _metadata_lines(items, seed, counts):
            stream.write(text)
    with _gzip_text(out / RATINGS_FILE) as stream, logs.progress("events", num_events) as advance:
        stream.write(HEADER + "\n")
        buyers = Buyers(items, seed)
        for chunk, (num_users, chunk_events) in enumerate(_chunks(num_events)):
            bought = buyers.buy(chunk, num_users, chunk_events)
            counts["users"] += num_users
            stream.write(_ratings_text(bought, len(items), [seed, 3, chunk], counts))
            advance(chunk_events)
    _write_whole(out / README_FILE, _readme(seed, counts).encode())
    return dict(counts)


def user_id(number: int) -> str:
    """The shop's id of a user; one for each number, in no visible order."""
    mixed = (number + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    return f"AE{mixed:016X}"


def _chunks(num_events: int) -> Iterator[tuple[int, int]]:
    """Users and events of each chunk; the events' sum is `num_events`."""
    users_left, events_left = max(1, num_events // process.EVENTS_PER_USER), num_events
    while users_left:
        users = min(users_left, process.USERS_PER_CHUNK)
        events = events_left if users == users_left else users * process.EVENTS_PER_USER
        yield users, events
        users_left, events_left = users_left - users, events_left - events


def _metadata_lines(items: Items, seed: int, counts: Counter[str]) -> Iterator[str]:
    rng = np.random.default_rng([seed, 4])
    for index in range(counts["items"]):
        record, dirt = item_record(items, index, seed)
        counts.update(f"metadata: {name}" for name in dirt)
        line = json.dumps(record, ensure_ascii=False)
        yield line + "\n"
        repeated, broken = rng.random(2)
        if repeated < REPEATED_RECORD_SHARE:
            counts["metadata: repeated lines"] += 1
            yield line + "\n"
        if broken < BROKEN_RECORD_SHARE:
            counts["metadata: broken lines"] += 1
            yield line[: len(line) // 2] + "\n"


def _ratings_text(
    bought: Purchases, num_items: int, entropy: list[int], counts: Counter[str]
) -> str:
    """The CSV lines of a chunk, soiled."""
    rng = np.random.default_rng(entropy)
    unknown, duplicate, broken = rng.random((3, len(bought.item_E)))
    item_E = np.where(unknown < UNKNOWN_ITEM_SHARE, bought.item_E + num_items, bought.item_E)
    lines = []
    columns = (bought.user_E, item_E, bought.rating_E, bought.time_ms_E)
    for event, (user, item, rating, time_ms) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        line = f"{user_id(user)},{item_id(item)},{rating}.0,{time_ms}"
        lines.append(line)
        if duplicate[event] < DUPLICATE_SHARE:
            lines.append(line)
        if broken[event] < BROKEN_SHARE:
            lines.append(_break(line, event))
    counts["lines with an unknown item"] += int((unknown < UNKNOWN_ITEM_SHARE).sum())
    counts["repeated lines"] += int((duplicate < DUPLICATE_SHARE).sum())
    counts["broken lines"] += int((broken < BROKEN_SHARE).sum())
    return "\n".join(lines) + "\n"


def _break(line: str, event: int) -> str:
    """A line near this one that cannot be used, of one of six sorts."""
    user, item, rating, time_ms = line.split(",")
    return (
        f"{user},{item},great,{time_ms}",
        f"{user},{item},{rating}",
        f"{user},{item},{rating},yesterday",
        f",{item},{rating},{time_ms}",
        f"{user},,{rating},{time_ms}",
        f"{user},{item},{rating},-{time_ms}",
    )[event % 6]


@contextmanager
def _gzip_text(path: Path) -> Iterator[io.TextIOBase]:
    """A text stream into a gzip file without name and time in it; in place only when complete."""
    partial = path.with_name(path.name + ".partial")
    try:
        with (
            partial.open("wb") as raw,
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
            io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text,
        ):
            yield text
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def _readme(seed: int, counts: Counter[str]) -> str:
    first = datetime.fromtimestamp(process.FIRST_DAY_MS / 1000, UTC)
    command = f"r2ec-cli sample-data --events {counts['events']} --seed {seed}"
    dirt = "\n".join(
        f"  {count:>12,}  {name}"
        for name, count in sorted(counts.items())
        if name not in ("events", "items", "users")
    )
    return f"""SYNTHETIC DATA, written by `{command}`.
No person, brand or product in it is real; what is measured on it says nothing of a real shop.

{RATINGS_FILE}: user_id,parent_asin,rating,timestamp (ms); by user, then by time.
{METADATA_FILE}: one JSON object an item, in the layout of Amazon Reviews 2023.

  {counts["users"]:>12,}  users (events / {process.EVENTS_PER_USER})
  {counts["items"]:>12,}  items (events ** {ITEMS_EXPONENT})
  {counts["events"]:>12,}  events from {first:%Y-%m-%d} on, over {process.SPAN_DAYS:.0f} days

How it came about: {process.FOLLOW_UP_SHARE:.0%} of the purchases follow up one of the user's last
three (a printer, then ink of its brand), {process.TASTE_SHARE:.0%} are of the user's own themes and
departments. The others, and those for which nothing is on sale, are drawn by popularity (Zipf), of
kinds that rise or fall. New items appear all along. {process.BASKET_SHARE:.0%} of the purchases
share the time of the one before.

Dirt in it, on purpose: of the events {UNKNOWN_ITEM_SHARE:.1%} have an item without metadata,
{DUPLICATE_SHARE:.1%} are repeated, {BROKEN_SHARE:.1%} have a broken line beside them. As counted:

{dirt}
"""
