"""A small generated log with what makes logs hard: ties in time, repeats, exact duplicates."""

import gzip
import json
import random
from pathlib import Path

HEADER = ("user_id", "parent_asin", "rating", "timestamp")
DAY_MS = 86_400_000
FIRST_MS = 1_500_000_000_000 // DAY_MS * DAY_MS

Event = tuple[str, str, str, str]


def make_log(*, seed: int = 0, users: int = 30, items: int = 15, events: int = 400) -> list[Event]:
    """Events as text rows in file order: whole-day times, so that many of a user's events tie.

    One in ten rows repeats an earlier one exactly; popular items come first.
    """
    rng = random.Random(seed)
    rows: list[Event] = []
    for _ in range(events):
        if rows and rng.random() < 0.1:
            rows.append(rng.choice(rows))
            continue
        user = f"U{int(users * rng.random() ** 2):03d}"
        item = f"B{int(items * rng.random() ** 2):03d}"
        time = FIRST_MS + DAY_MS * rng.randrange(40)
        rows.append((user, item, str(float(rng.randint(1, 5))), str(time)))
    return rows


def make_items(rows: list[Event]) -> list[dict[str, object]]:
    """One metadata row per item of the log, in an order that is not that of the ids.

    Every third has features instead of a description; all have the lifetime statistics of a shop.
    """
    ids = sorted({row[1] for row in rows}, key=lambda item: item[::-1])
    return [
        {
            "parent_asin": item,
            "title": f"Thing {item} &amp; more",
            "description": [f"<p>About {item}.</p>", "Second part"] if number % 3 else [],
            "features": ["Sturdy", "Light"],
            "categories": ["Things", f"Kind {item[-1]}"],
            "store": "Acme",
            "price": "12.50",
            "average_rating": 4.5,
            "rating_number": 1000,
        }
        for number, item in enumerate(ids)
    ]


def write_csv(path: Path, rows: list[Event], header: tuple[str, ...] = HEADER) -> Path:
    """Write a CSV file with a header; compressed when the name ends in .gz."""
    return write_lines(path, [",".join(header), *(",".join(row) for row in rows)])


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write JSON lines; compressed when the name ends in .gz."""
    return write_lines(path, [json.dumps(row, ensure_ascii=False) for row in rows])


def write_lines(path: Path, lines: list[str]) -> Path:
    """Write lines of text; compressed when the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def make_shop(folder: Path, rows: list[Event]) -> tuple[Path, Path]:
    """Write log and metadata of a shop; returns (log, metadata)."""
    log = write_csv(folder / "log.csv.gz", rows)
    return log, write_jsonl(folder / "meta.jsonl.gz", make_items(rows))
