"""Rows per second of writing and publishing a date: parts, checksums, checks, moves, the one act.

The real writer and publisher on made-up lists: histories of the date, then each part of the default
size written, the shard finished, the date published (every file read again and checked). Making the
rows is not counted. The peer writes the same rows with pyarrow and nothing else: no checksums, no
manifests, no check that every user is there once, no act that makes all of them visible. Twice,
with ten times the users, each in a process of its own. The last line is one JSON object: `ratio` is
the peer's time over ours, so below 1 what being whole or not at all costs; `rows_per_second` of
recommendations; `growth` the time of ten times the users, `memory_growth` their peak of memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from r2ec import schemas
from r2ec.infer.plan import RunPlan, histories_fingerprint, shard_parts
from r2ec.infer.publish import publish
from r2ec.infer.writer import ShardWriter
from r2ec.storage import Warehouse
from r2ec.tables import iter_histories

DATE = "2024-05-31"
LISTED = 10
NUM_ITEMS = 100_000
ROWS_OF_A_FILE = 200_000


def history_hashes(first: int, count: int) -> list[str]:
    """A hash of 64 digits for each user."""
    return [f"{number:064x}" for number in range(first, first + count)]


def write_histories(warehouse: Warehouse, num_users: int) -> None:
    """Users by ascending id, two events each."""
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    for file, first in enumerate(range(0, num_users, ROWS_OF_A_FILE)):
        count = min(ROWS_OF_A_FILE, num_users - first)
        rows = {
            "user_id": [f"u{number:09d}" for number in range(first, first + count)],
            "history_item_index": [[0, 1]] * count,
            "history_rating": [[5.0, 4.0]] * count,
            "history_time": [[moment, moment]] * count,
            "history_hash": history_hashes(first, count),
        }
        table = pa.table(rows, schema=schemas.HISTORIES.schema)
        warehouse.write_parquet(table, "histories", f"date={DATE}", f"part-{file:05d}.parquet")


def part_rows(users: list[str]) -> tuple[pa.Table, pa.Table]:
    """Ten recommendations and a reasoning of some 40 words for each user."""
    source = np.random.default_rng(int(users[0][1:]))
    index = source.integers(0, NUM_ITEMS, len(users) * LISTED)
    words = np.array([f"word{number}" for number in range(500)])
    texts = [" ".join(row) for row in words[source.integers(0, 500, (len(users), 40))]]
    lists = {
        "user_id": np.repeat(users, LISTED),
        "rank": np.tile(np.arange(1, LISTED + 1, dtype=np.int32), len(users)),
        "item_id": [f"B{number:09d}" for number in index],
        "item_index": index,
        "score": -np.sort(-source.random((len(users), LISTED)), axis=1).ravel().astype(np.float32),
    }
    reasons = {
        "user_id": users,
        "reasoning": texts,
        "finish_reason": ["marker"] * len(users),
        "prompt_tokens": [400] * len(users),
        "reasoning_tokens": [60] * len(users),
        "history_hash": [f"{int(user[1:]):064x}" for user in users],
        "status": ["ok"] * len(users),
        "error": [None] * len(users),
    }
    schema = schemas.RECOMMENDATIONS.schema
    columns = [pa.array(lists[name]).cast(schema.field(name).type) for name in schema.names]
    return pa.table(columns, schema=schema), pa.table(reasons, schema=schemas.REASONING.schema)


def measure(num_users: int, users_per_part: int, folder: str) -> dict[str, float]:
    """Seconds of writing and of publishing, and the peak of memory over what was held before."""
    warehouse = Warehouse(folder)
    write_histories(warehouse, num_users)
    plan = RunPlan.build(
        date=DATE,
        model="0" * 12,
        catalog_version=DATE,
        catalog_fingerprint="0" * 16,
        histories=histories_fingerprint(warehouse, DATE),
        settings={"top_k": LISTED},
        num_shards=1,
        users_per_part=users_per_part,
        batch_rows=256,
    )
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    writer, writing, plain, num_parts = ShardWriter(warehouse, plan, 0), 0.0, 0.0, 0
    peer = Path(folder, "_peer")
    for part, users in shard_parts(iter_histories(warehouse, DATE, now=0), plan, 0):
        ranked, reasons = part_rows([user.user_id for user in users])
        start = time.perf_counter()
        writer.write_part(part, ranked, reasons, device_seconds=1.0, wall_seconds=1.0)
        writing += time.perf_counter() - start
        start = time.perf_counter()
        write_plainly({"recommendations": ranked, "reasoning": reasons}, peer, part)
        plain += time.perf_counter() - start
        num_parts = part + 1
    start = time.perf_counter()
    writer.finish(num_parts)
    finishing = time.perf_counter() - start
    start = time.perf_counter()
    published = publish(warehouse, DATE)
    publishing = time.perf_counter() - start
    assert published.num_recommendations == num_users * LISTED
    again = time.perf_counter()
    assert publish(warehouse, DATE).was_already
    return {
        "writing_seconds": round(writing, 2),
        "finishing_seconds": round(finishing, 2),
        "publishing_seconds": round(publishing, 2),
        "again_seconds": round(time.perf_counter() - again, 2),
        "seconds": writing + finishing + publishing,
        "peer_seconds": plain,
        "added_memory_bytes": resident_bytes("VmHWM") - before,
        "equal": is_the_same(warehouse, peer),
    }


def write_plainly(tables: dict[str, pa.Table], folder: Path, part: int) -> None:
    """What the peer does for a part."""
    for name, rows in tables.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, folder / name / f"part-{part:05d}.parquet", compression="zstd")


def is_the_same(warehouse: Warehouse, peer: Path) -> bool:
    """Whether what is published are the rows of the peer, part by part."""
    for table in ("recommendations", "reasoning"):
        ours, theirs = warehouse.list_files(table), sorted((peer / table).iterdir())
        if len(ours) != len(theirs):
            return False
        for path, file in zip(ours, theirs, strict=True):
            if not pq.ParquetFile(warehouse.path(path)).read().equals(pq.ParquetFile(file).read()):
                return False
    return True


def resident_bytes(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status tells no {field}")


def main() -> None:
    """Both sizes, each in a process of its own; prints as it goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--users-per-part", type=int, default=2000)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(arguments.users, arguments.users_per_part, folder)))
        return
    if arguments.quick:
        arguments.users = 50_000
    sizes = {}
    for users in (arguments.users // 10, arguments.users):
        command = [sys.executable, __file__, "--one", f"--users={users}"]
        command.append(f"--users-per-part={arguments.users_per_part}")
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        sizes[users] = json.loads(ran.stdout)
        print(f"{users:,} users: {sizes[users]}", flush=True)
    small, large = sizes.values()
    figures = {
        "bench": "publish",
        "ratio": round(large["peer_seconds"] / large["seconds"], 3),
        "equal": bool(small["equal"] and large["equal"]),
        "rows_per_second": round(arguments.users * LISTED / large["seconds"]),
        "growth": round(large["seconds"] / small["seconds"], 2),
        "memory_growth": round(large["added_memory_bytes"] / small["added_memory_bytes"], 2),
        "sizes": {f"{users} users": figures for users, figures in sizes.items()},
        "config": {"users": arguments.users, "users_per_part": arguments.users_per_part},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
