"""One user's list, titles and reasoning out of 10^7 rows of a published date, by `r2ec-cli sql`.

The date is written and published by the project's own writer, in several shards. Each call asks for
another user, twice: in a process of its own, start-up and all, and within this one, where opening
the views counts but importing does not. The peer is the same command on the same rows shuffled over
as many files, so that no statistics rule a row group out. The last line is one JSON object:
`seconds` is the median of the whole command, `ratio` the peer's over it, `in_process` the same of
the calls within this process, `start_seconds` a command that reads no table.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from bench_publish import DATE, LISTED, NUM_ITEMS, part_rows, write_histories

from r2ec import schemas, sql_files
from r2ec.infer.plan import RunPlan, histories_fingerprint, published_folder, shard_parts
from r2ec.infer.publish import publish
from r2ec.infer.writer import ShardWriter
from r2ec.storage import Warehouse
from r2ec.tables import iter_histories
from r2ec.warehouse_views import run_query, with_views

NUM_SHARDS, USERS_PER_PART = 4, 2000
TABLES = {"recommendations": schemas.RECOMMENDATIONS, "reasoning": schemas.REASONING}
# A process begins with the peak of memory of the one it was forked from, so a small one does it.
LAUNCHER = """
import os, sys, time
start = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
sys.stderr.write(f"[{time.perf_counter() - start}, {usage.ru_maxrss}]")
sys.exit(os.waitstatus_to_exitcode(status))
"""
ALL_COLUMNS = "SELECT * FROM v_recommendations WHERE date = :date AND user_id = :user ORDER BY rank"


def make_warehouse(root: Path, num_users: int) -> Warehouse:
    """A catalog and one published date."""
    warehouse = Warehouse(str(root))
    write_catalog(warehouse)
    write_histories(warehouse, num_users)
    plan = RunPlan.build(
        date=DATE,
        model="0" * 12,
        catalog_version=DATE,
        catalog_fingerprint="0" * 16,
        histories=histories_fingerprint(warehouse, DATE),
        settings={"top_k": LISTED},
        num_shards=NUM_SHARDS,
        users_per_part=USERS_PER_PART,
        batch_rows=256,
    )
    for shard in range(NUM_SHARDS):
        writer, num_parts = ShardWriter(warehouse, plan, shard), 0
        for part, users in shard_parts(iter_histories(warehouse, DATE, now=0), plan, shard):
            rows = part_rows([user.user_id for user in users])
            writer.write_part(part, *rows, device_seconds=1.0, wall_seconds=1.0)
            num_parts = part + 1
        writer.finish(num_parts)
    publish(warehouse, DATE)
    return warehouse


def write_catalog(warehouse: Warehouse) -> None:
    """Titles, stores and prices for every item."""
    numbers = np.arange(NUM_ITEMS)
    columns = {
        "item_index": numbers,
        "item_id": [f"B{number:09d}" for number in numbers],
        "title": [f"Thing {number} in the colour {number % 997}" for number in numbers],
        "description": [f"What thing {number} is good for" for number in numbers],
        "category": [f"Category {number % 40}" for number in numbers],
        "store": [f"Store {number % 300}" for number in numbers],
        "price": numbers / 100,
        "first_seen": pa.nulls(NUM_ITEMS, schemas.TIMESTAMP),
        "text_hash": [f"{number:064x}" for number in numbers],
    }
    rows = pa.table(columns, schema=schemas.CATALOG.schema)
    warehouse.write_parquet(rows, "catalog", f"version={DATE}", "part-00000.parquet")


def make_shuffled(warehouse: Warehouse, root: Path) -> Warehouse:
    """The same date with each table's rows in no order, over as many files."""
    shuffled, source = Warehouse(str(root)), np.random.default_rng(0)
    root.mkdir()
    for name in ("catalog", "runs"):
        (root / name).symlink_to(warehouse.path(name))
    (run_id,) = warehouse.partitions("recommendations", "run_id", date=DATE)
    for name, table in TABLES.items():
        folder = published_folder(name, DATE, run_id)
        files = warehouse.list_files(*folder)
        rows = warehouse.read_table(table, date=DATE, run_id=run_id)
        rows = rows.take(pa.array(source.permutation(rows.num_rows)))
        cuts = np.linspace(0, rows.num_rows, len(files) + 1).astype(int)
        for number, (first, end) in enumerate(pairwise(cuts)):
            some = rows.slice(first, end - first)
            shuffled.write_parquet(some, *folder, f"part-{number:05d}.parquet")
    return shuffled


def row_groups(warehouse: Warehouse, user: str) -> dict[str, str]:
    """For each table, how many row groups their statistics leave for a user, of how many."""
    told = {}
    for name in TABLES:
        fragments = list(ds.dataset(warehouse.path(name, f"date={DATE}")).get_fragments())
        left = [len(one.subset(ds.field("user_id") == user).row_groups) for one in fragments]
        told[name] = f"{sum(left)} of {sum(one.num_row_groups for one in fragments)}"
    return told


def command(warehouse: Warehouse, *arguments: str) -> tuple[float, int, list[dict]]:
    """Wall seconds, peak bytes and printed rows of `r2ec-cli sql` as a process."""
    called = [sys.executable, "-m", "r2ec", "sql", "--warehouse", warehouse.root]
    ran = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *called, "--format", "json", *arguments],
        check=True,
        capture_output=True,
    )
    seconds, kilobytes = json.loads(ran.stderr)
    return seconds, kilobytes * 1024, json.loads(ran.stdout)


def in_process(warehouse: Warehouse, user: str) -> tuple[float, list[dict]]:
    """Wall seconds of opening the views and asking, and the rows."""
    start = time.perf_counter()
    asked = sql_files.parse_sql("-q", "-q", ALL_COLUMNS)
    values = {"date": DATE, "user": user}
    rows = with_views(warehouse, lambda views: run_query(views, asked, values))
    return time.perf_counter() - start, rows.to_pylist()


def measure(sides: dict[str, Warehouse], users: list[str]) -> dict:
    """Both sides in turns, for each of the users."""
    whole: dict[str, list[float]] = {"ours": [], "peer": [], "start": []}
    within: dict[str, list[float]] = {"ours": [], "peer": []}
    peak, equal = {"ours": 0, "peer": 0}, True
    for user in users:
        found = {}
        for side, warehouse in sides.items():
            params = ["--param", f"date={DATE}", "--param", f"user={user}"]
            seconds, memory, printed = command(warehouse, "-q", ALL_COLUMNS, *params)
            whole[side].append(seconds)
            peak[side] = max(peak[side], memory)
            seconds, rows = in_process(warehouse, user)
            within[side].append(seconds)
            found[side] = (printed, rows)
        equal &= found["ours"] == found["peer"] and len(found["ours"][1]) == LISTED
        whole["start"].append(command(sides["ours"], "-q", "SELECT 1")[0])
    median = {side: statistics.median(values) for side, values in whole.items()}
    median_within = {side: statistics.median(values) for side, values in within.items()}
    return {
        "ratio": round(median["peer"] / median["ours"], 2),
        "memory_ratio": round(peak["ours"] / peak["peer"], 3),
        "equal": equal,
        "seconds": round(median["ours"], 3),
        "slowest_seconds": round(max(whole["ours"]), 3),
        "peer_seconds": round(median["peer"], 3),
        "start_seconds": round(median["start"], 3),
        "in_process": {
            "seconds": round(median_within["ours"], 3),
            "ratio": round(median_within["peer"] / median_within["ours"], 2),
        },
        "row_groups": {side: row_groups(sides[side], users[0]) for side in sides},
    }


def main() -> None:
    """Write the tables, measure, print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10^6 rows, under a minute")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--calls", type=int, default=9, help="users asked for, one after another")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.users, arguments.calls = 100_000, 3
    with tempfile.TemporaryDirectory() as folder:
        ours = make_warehouse(Path(folder) / "ours", arguments.users)
        sides = {"ours": ours, "peer": make_shuffled(ours, Path(folder) / "shuffled")}
        print(f"{arguments.users * LISTED:,} rows written", flush=True)
        chosen = np.random.default_rng(1).choice(arguments.users, arguments.calls, replace=False)
        figures = {
            "bench": "sql",
            **measure(sides, [f"u{number:09d}" for number in chosen]),
            "config": {
                "rows": arguments.users * LISTED,
                "files": len(ours.list_files("recommendations")),
                "shards": NUM_SHARDS,
                "items": NUM_ITEMS,
                "calls": arguments.calls,
                "cores": os.cpu_count(),
            },
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
