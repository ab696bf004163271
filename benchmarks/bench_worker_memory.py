"""Peak memory of a Python worker of the sequences job, by events of its partition and of one user.

Runs what a task runs (packing, then sequences and histories of 20 events written to Parquet), each
case in a process of its own, without Spark: what is measured is the Python worker, not the JVM.

    python benchmarks/bench_worker_memory.py [--quick]
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pyarrow as pa

from r2ec.etl.chunks import read_chunks
from r2ec.etl.packing import packer
from r2ec.etl.parts import PartWriter
from r2ec.etl.windows import history_rows, sequence_rows
from r2ec.schemas import HISTORIES, SEQUENCES
from r2ec.storage import Warehouse

BATCH_ROWS, ITEMS, WINDOW, LATEST = 65_536, 200_000, 20, 10**15
CASES = ((262_144, 10), (1_048_576, 10), (4_194_304, 10))
LARGE_USERS = ((1_048_576, 1_048_576), (2_097_152, 2_097_152), (4_194_304, 4_194_304))


def batches(num_events: int, per_user: int) -> Iterator[pa.RecordBatch]:
    """Events as Spark hands them to the packer, users of 28 letters as the shop writes them."""
    rng = random.Random(0)
    for first in range(0, num_events, BATCH_ROWS):
        places = range(first, min(first + BATCH_ROWS, num_events))
        users = [place // per_user for place in places]
        yield pa.RecordBatch.from_pydict(
            {
                "user_id": pa.array([f"AE{user:026d}" for user in users]),
                "item_index": pa.array([rng.randrange(ITEMS) for _ in places], pa.int64()),
                "rating": pa.array([5.0] * len(places), pa.float32()),
                "time": pa.array([rng.randrange(LATEST) for _ in places], pa.int64()),
                "place": pa.array(places, pa.int64()),
                "line": pa.nulls(len(places), pa.string()),
                "reason": pa.nulls(len(places), pa.string()),
                "user_hash": pa.array(users, pa.int64()),
            }
        )


def work(num_events: int, per_user: int, stage: str) -> None:
    """What a task does; prints the peak of this process in MiB."""
    chunks = read_chunks(packer([], None)(batches(num_events, per_user)))
    table = HISTORIES if stage == "histories" else SEQUENCES
    with (
        tempfile.TemporaryDirectory() as folder,
        PartWriter(Warehouse(folder), ("rows",), table.schema, 0) as part,
    ):
        for chunk in chunks if stage != "nothing" else ():
            if stage == "histories":
                found = history_rows(chunk, until=LATEST, window=WINDOW)
            elif stage == "sequences":
                found = sequence_rows(
                    chunk, window=WINDOW, strict_time=False, after=None, until=None
                )
            else:
                found = iter(())
            for rows in found:
                part.add(rows)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def peak_mib(num_events: int, per_user: int, stage: str) -> int:
    """The peak of a process that does it."""
    case = ["--case", str(num_events), str(per_user), stage]
    done = subprocess.run([sys.executable, __file__, *case], check=True, capture_output=True)
    return int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smaller cases alone")
    parser.add_argument("--case", nargs=3, metavar=("EVENTS", "PER_USER", "STAGE"))
    args = parser.parse_args()
    if args.case:
        work(int(args.case[0]), int(args.case[1]), args.case[2])
        return
    found: dict[str, object] = {"benchmark": "worker_memory"}
    found["nothing_mib"] = peak_mib(0, 1, "nothing")
    for num_events, per_user in (CASES + LARGE_USERS)[:: 3 if args.quick else 1]:
        of = "one user" if num_events == per_user else f"users of {per_user}"
        for stage in ("pack", "sequences", "histories"):
            mib = peak_mib(num_events, per_user, stage)
            print(f"{num_events:,} events, {of}, {stage}: {mib} MiB", flush=True)
            found[f"{stage}_{num_events}_{'one' if num_events == per_user else per_user}_mib"] = mib
    print(json.dumps(found))


if __name__ == "__main__":
    main()
