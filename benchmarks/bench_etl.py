"""Raw log to sequences and histories: the Spark job on two cores against DuckDB in one process.

Both read the same Parquet log, drop exact duplicates, take the 5-core to its fixed point, cut the
targets by time, and write sequences and histories as zstd Parquet. DuckDB does it as one would by
hand: keys as integers in the rounds, one sorted list a user, slices of it. Equal is told by a hash
over all rows of both. Start-up (JVM, imports) is left out on both sides, and the job's audits and
publishing, which DuckDB does not do, stand apart. The last line is one JSON object; `ratio` is
DuckDB's time over ours.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

REPOSITORY = Path(__file__).resolve().parents[1]
WINDOW, CORES = 20, 2
GIANT_USER, GIANT_ITEM = 0.1, 0.3  # their shares of a skewed log
FIRST_SECOND, DAYS = 1_577_836_800, 730
LAST_DAY, NEXT_DAY = "2021-12-30", "2021-12-31"
VERSION = "2022-01-01"
QUICK_COMPILER = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_ROW = "user_id, history_item_index, history_rating, history_time"
CHECKED = {
    "sequences": f"sequence_id, {_ROW}, target_item_index, target_rating, target_time, split",
    "histories": _ROW,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """Whom and what a log is drawn from: Zipf users and items, in an order of their own."""

    users: np.ndarray
    items: np.ndarray
    user_numbers: np.ndarray
    item_numbers: np.ndarray
    is_skewed: bool

    def write(
        self, source: np.random.Generator, path: Path, num_rows: int, first: int, days: int
    ) -> None:
        """A file of events from a day on, one in a hundred rows an exact duplicate."""
        columns = {
            "user": self.user_numbers[np.searchsorted(self.users, source.random(num_rows))],
            "item": self.item_numbers[np.searchsorted(self.items, source.random(num_rows))],
            "rating": source.integers(1, 6, num_rows).astype(np.float64),
            "timestamp": (FIRST_SECOND + first * 86_400) * 1000
            + source.integers(0, days * 86_400, num_rows) * 1000,
        }
        if self.is_skewed:
            columns["user"][source.random(num_rows) < GIANT_USER] = 0
            columns["item"][source.random(num_rows) < GIANT_ITEM] = 0
        copies, originals = (source.integers(0, num_rows, num_rows // 100) for _ in range(2))
        for values in columns.values():
            values[copies] = values[originals]
        table = pa.table(
            {
                "user_id": _ids("U", columns["user"]),
                "parent_asin": _ids("B", columns["item"]),
                "rating": columns["rating"],
                "timestamp": columns["timestamp"],
            }
        )
        pq.write_table(table, path, compression="zstd")


def write_log(
    folder: Path, num_events: int, *, is_skewed: bool = False, num_files: int = 16
) -> None:
    """A log of two years, one more day of a hundredth as many events, and the catalog of both.

    Skewed: one user has a tenth of the events, one item three tenths, and 10^5 items none.
    """
    for name in ("log", "next"):
        (folder / name).mkdir(parents=True)
    num_users, num_items = max(num_events // 10, 10), max(num_events // 50, 10)
    source = np.random.default_rng(0)
    shop = Shop(
        users=_zipf(num_users, 0.02, 0.8),
        items=_zipf(num_items, 0.0005, 1.0),
        user_numbers=source.permutation(num_users),
        item_numbers=source.permutation(num_items),
        is_skewed=is_skewed,
    )
    for file in range(num_files):
        path = folder / "log" / f"part-{file:03d}.parquet"
        shop.write(source, path, num_events // num_files, 0, DAYS)
    shop.write(source, folder / "next" / "part-900.parquet", num_events // 100, DAYS, 1)
    write_catalog(folder, num_unsold=100_000 if is_skewed else 0)


def write_catalog(folder: Path, num_unsold: int) -> None:
    """The items of the log, and some more, as a catalog version: neither side is timed on it."""
    place = folder / "warehouse" / "catalog" / f"version={VERSION}"
    place.mkdir(parents=True)
    duckdb.sql(
        f"""COPY (SELECT row_number() OVER (ORDER BY item_id) - 1 AS item_index, item_id,
        't' AS title, NULL::VARCHAR AS description, NULL::VARCHAR AS category,
        NULL::VARCHAR AS store, NULL::DOUBLE AS price, NULL::TIMESTAMPTZ AS first_seen,
        'h' AS text_hash
        FROM (SELECT DISTINCT parent_asin AS item_id FROM '{folder}/*/part-*.parquet'
            UNION ALL SELECT 'C' || unsold AS item_id FROM range({num_unsold}) AS r (unsold))
        ORDER BY 1)
        TO '{place}/part-0.parquet' (FORMAT parquet)"""
    )


def _zipf(size: int, offset: float, power: float) -> np.ndarray:
    weights = 1 / (np.arange(size) + 1 + offset * size) ** power
    sums = np.cumsum(weights)
    return sums / sums[-1]


def _ids(letter: str, numbers: np.ndarray) -> pa.Array:
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0")
    return pc.binary_join_element_wise(pa.scalar(letter), digits, "")


def run_duckdb(folder: Path, out: Path, min_events: int) -> dict[str, float]:
    """DuckDB's own way; returns seconds by stage."""
    (out / "spill").mkdir(parents=True)
    base = duckdb.connect()
    base.execute(f"SET threads = {CORES}; SET preserve_insertion_order = false")
    base.execute(
        f"SET memory_limit = '8GB'; SET temp_directory = '{out}/spill'; SET TimeZone = 'UTC'"
    )
    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def done(stage: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[stage], last = now - last, now

    base.execute(
        f"""CREATE TABLE events AS
        WITH log AS (
            SELECT *, regexp_extract(filename, 'part-([0-9]+)', 1)::BIGINT AS file
            FROM read_parquet('{folder}/log/*.parquet', filename = true, file_row_number = true))
        SELECT user_id, item_index, rating::FLOAT AS rating, timestamp * 1000 AS time,
            min((file << 40) + log.file_row_number) AS place
        FROM log JOIN '{folder}/warehouse/catalog/*/*.parquet' ON parent_asin = item_id
        GROUP BY ALL"""
    )
    done("read")
    _duckdb_core(base, min_events)
    done("k-core")
    base.execute(
        """CREATE TABLE lists AS
        WITH sorted AS (
            SELECT user_id, list(struct_pack(t := time, p := place, i := item_index, r := rating)
                ORDER BY time, place) AS es
            FROM core GROUP BY user_id)
        SELECT user_id, [e.i FOR e IN es] AS i, [e.r FOR e IN es] AS r, [e.t FOR e IN es] AS t,
            [e.p FOR e IN es] AS p FROM sorted"""
    )
    cuts = base.execute(
        """WITH times AS (SELECT unnest(t[2:]) AS time FROM lists),
        counts AS (SELECT time, count(*) AS n FROM times GROUP BY time),
        sums AS (SELECT time, sum(n) OVER (ORDER BY time) AS s, sum(n) OVER () AS n FROM counts)
        SELECT min(time) FILTER (s >= 0.8 * n - 1e-6), min(time) FILTER (s >= 0.9 * n - 1e-6)
        FROM sums"""
    ).fetchone()
    done("cuts")
    assert cuts is not None
    stretch = f"[greatest(1, j - {WINDOW}):j - 1]"
    base.execute(
        f"""COPY (SELECT p[j] AS sequence_id, user_id, i{stretch} AS history_item_index,
            r{stretch} AS history_rating,
            list_transform(t{stretch}, lambda x: make_timestamptz(x)) AS history_time,
            i[j] AS target_item_index, r[j] AS target_rating,
            make_timestamptz(t[j]) AS target_time,
            CASE WHEN t[j] <= {cuts[0]} THEN 'train' WHEN t[j] <= {cuts[1]} THEN 'valid'
                ELSE 'test' END AS split
        FROM (SELECT *, unnest(range(2, len(t) + 1)) AS j FROM lists))
        TO '{out}/sequences' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (split))"""
    )
    last_part = f"[-{WINDOW}:]"
    base.execute(
        f"""COPY (SELECT user_id, i{last_part} AS history_item_index,
            r{last_part} AS history_rating,
            list_transform(t{last_part}, lambda x: make_timestamptz(x)) AS history_time,
            sha256(concat_ws(';', i{last_part}::VARCHAR, r{last_part}::VARCHAR,
                t{last_part}::VARCHAR)) AS history_hash FROM lists)
        TO '{out}/histories.parquet' (FORMAT parquet, COMPRESSION zstd)"""
    )
    done("write")
    return seconds


def _duckdb_core(base: duckdb.DuckDBPyConnection, min_events: int) -> None:
    if min_events <= 1:
        base.execute("CREATE VIEW core AS FROM events")
        return
    base.execute(
        """CREATE TABLE users AS
        SELECT user_id, (row_number() OVER ())::INT AS u
        FROM (SELECT DISTINCT user_id FROM events)"""
    )
    base.execute(
        "CREATE TABLE keys AS SELECT u, item_index::INT AS i FROM events JOIN users USING (user_id)"
    )
    many = f"HAVING count(*) >= {min_events}"
    before = -1
    while True:
        for one in ("i", "u"):
            base.execute(
                f"CREATE OR REPLACE TABLE keys AS SELECT * FROM keys "
                f"SEMI JOIN (SELECT {one} FROM keys GROUP BY {one} {many}) USING ({one})"
            )
        (left,) = base.execute("SELECT count(*) FROM keys").fetchall()[0]
        if left == before:
            break
        before = left
    base.execute(
        """CREATE TABLE core AS SELECT events.* FROM events
        SEMI JOIN (SELECT DISTINCT user_id FROM users JOIN keys USING (u)) USING (user_id)
        SEMI JOIN (SELECT DISTINCT i AS item_index FROM keys) USING (item_index)"""
    )


def run_job(
    folder: Path,
    min_events: int,
    memory: str,
    day: str = LAST_DAY,
    *options: str,
    java_options: str = "",
) -> tuple[dict[str, float], int]:
    """The job through spark-submit; seconds by stage and the peak bytes of its processes.

    `total` leaves Spark's start out; `with_start` is all of it, and `cpu` its CPU seconds.
    """
    command = [
        str(Path(sys.executable).with_name("spark-submit")),
        *("--master", f"local[{CORES}]", "--driver-memory", memory),
        *("--driver-java-options", java_options),
        *("--conf", "spark.ui.showConsoleProgress=false"),
        str(REPOSITORY / "jobs" / "build_sequences.py"),
        *("--interactions", str(folder / "log"), "--warehouse", str(folder / "warehouse")),
        *("--date", day, "--window", str(WINDOW), *options),
        *("--min-user-events", str(min_events), "--min-item-events", str(min_events)),
    ]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "PATH": path}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    watch = Watch(process.pid)
    out, err = process.communicate()
    num_bytes, cpu_seconds = watch.stop()
    if process.returncode:
        sys.exit(err.decode()[-3000:])
    line = out.decode().strip().splitlines()[-1]
    print(line, flush=True)
    stages = re.findall(r"(?:, )([a-z-]+) (\d+\.\d) s(?=,|$)", line)
    found = {name: float(seconds) for name, seconds in stages}
    found["with_start"] = round(time.perf_counter() - started, 1)
    found["cpu"] = round(cpu_seconds, 1)
    return found, num_bytes


class Watch:
    """A process and its children, looked at five times a second: resident size and CPU time.

    CPU seconds tell what a run takes on a machine that has other work, too.
    """

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._ended = pid, 0, threading.Event()
        self._ticks: dict[str, int] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[int, float]:
        """End watching; returns the largest bytes seen at once, and CPU seconds."""
        self._ended.set()
        self._thread.join()
        return self._peak, sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            sizes = _sizes_and_ticks(self._pid)
            self._peak = max(self._peak, sum(size for size, _ in sizes.values()))
            self._ticks |= {name: ticks for name, (_, ticks) in sizes.items()}


def _sizes_and_ticks(pid: int) -> dict[str, tuple[int, int]]:
    """Of a process and its children: resident bytes, and CPU time in ticks."""
    parents, found = {}, {}
    for name in os.listdir("/proc"):
        try:
            stat = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        parents[name] = stat[1]
        found[name] = int(stat[21]) * os.sysconf("SC_PAGE_SIZE"), int(stat[11]) + int(stat[12])
    family, more = {str(pid)}, {str(pid)}
    while more:
        more = {name for name, above in parents.items() if above in family} - family
        family |= more
    return {name: found[name] for name in family if name in found}


def are_equal(folder: Path, out: Path) -> bool:
    """Do both hold the same rows? By number and sum of hashes over all columns but the hash."""
    duckdb.sql("SET TimeZone = 'UTC'")
    found = []
    for root, histories in (
        (folder / "warehouse", "histories/*/*.parquet"),
        (out, "histories.parquet"),
    ):
        places = {"sequences": f"{root}/sequences/*/*.parquet", "histories": f"{root}/{histories}"}
        found.append(
            [
                duckdb.sql(
                    f"SELECT count(*), sum(hash({columns})) "
                    f"FROM read_parquet('{places[table]}', hive_partitioning = true)"
                ).fetchall()
                for table, columns in CHECKED.items()
            ]
        )
    return found[0] == found[1]


def peer_seconds(folder: Path, out: Path, min_events: int) -> tuple[dict[str, float] | None, int]:
    """`run_duckdb` in a process of its own: seconds by stage, and its peak bytes.

    None when it fails: the sorted list of a giant user does not fit into its memory.
    """
    command = [sys.executable, __file__, "--peer", str(folder), str(out), str(min_events)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    watch = Watch(process.pid)
    printed, _ = process.communicate()
    num_bytes, _ = watch.stop()
    if process.returncode:
        return None, num_bytes
    seconds: dict[str, float] = json.loads(printed.decode().splitlines()[-1])
    return seconds, num_bytes


def measure(
    folder: Path, num_events: int, min_events: int, memory: str, *, is_skewed: bool = False
) -> dict[str, object]:
    """Both sides over a fresh log of this size."""
    write_log(folder, num_events, is_skewed=is_skewed)
    theirs, their_bytes = peer_seconds(folder, folder / "duckdb", min_events)
    ours, our_bytes = run_job(folder, min_events, memory)
    not_theirs = ("audit", "publish", "total")
    our_seconds = ours["total"] - sum(ours.get(stage, 0.0) for stage in not_theirs[:2])
    found = {
        "events": num_events,
        "seconds": round(our_seconds, 1),
        "stages": ours,
        "peak_mib": our_bytes >> 20,
        "ratio": None,
        "memory_ratio": None,
        "equal": None,
    }
    if theirs is None:
        return found
    return found | {
        "ratio": round(sum(theirs.values()) / our_seconds, 3),
        "memory_ratio": round(our_bytes / their_bytes, 2),
        "equal": are_equal(folder, folder / "duckdb"),
        "duckdb_seconds": round(sum(theirs.values()), 1),
        "duckdb_stages": {stage: round(value, 1) for stage, value in theirs.items()},
    }


def measure_increment(folder: Path, num_events: int, memory: str) -> dict[str, object]:
    """A day of a hundredth of the events: added to the day before, and built in full.

    Added twice, the second time with Java's quick compiler alone, as `docs/operations.md` advises
    for short runs.
    """
    write_log(folder, num_events)
    run_job(folder, 1, memory)
    (folder / "next" / "part-900.parquet").rename(folder / "log" / "part-900.parquet")
    added, _ = run_job(folder, 1, memory, NEXT_DAY, "--incremental")
    quick, num_bytes = run_job(
        folder, 1, memory, NEXT_DAY, "--incremental", java_options=QUICK_COMPILER
    )
    by_increment = _rows_and_hash(f"{folder}/warehouse/histories/date={NEXT_DAY}", "history_hash")
    full, _ = run_job(folder, 1, memory, NEXT_DAY)
    by_all = _rows_and_hash(f"{folder}/warehouse/histories/date={NEXT_DAY}", "history_hash")
    return {
        "new_events": num_events // 100,
        "seconds": added["total"],
        "quick_compiler_seconds": quick["total"],
        "full_seconds": full["total"],
        "share_of_full": round(added["total"] / full["total"], 3),
        "quick_compiler_share": round(quick["total"] / full["total"], 3),
        "share_with_start": round(added["with_start"] / full["with_start"], 3),
        "quick_compiler_share_with_start": round(quick["with_start"] / full["with_start"], 3),
        "cpu_share": round(added["cpu"] / full["cpu"], 3),
        "quick_compiler_cpu_share": round(quick["cpu"] / full["cpu"], 3),
        "peak_mib": num_bytes >> 20,
        "equal": by_increment == by_all,
        "stages": added,
        "quick_compiler_stages": quick,
    }


def _rows_and_hash(folder: str, column: str) -> tuple[object, ...]:
    query = f"SELECT count(*), sum(hash({_ROW}, {column})) FROM '{folder}/*.parquet'"
    return tuple(duckdb.sql(query).fetchall()[0])


def main() -> None:
    """Print figures by size, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=float, default=1e7)
    parser.add_argument("--min-events", type=int, default=5, help="of the k-core")
    parser.add_argument("--growth", action="store_true", help="a tenth of the events first")
    parser.add_argument("--skew", action="store_true", help="a giant user, a giant item")
    parser.add_argument("--increment", action="store_true", help="and a day added to the log")
    parser.add_argument("--driver-memory", default="3g")
    parser.add_argument("--quick", action="store_true", help="200,000 events")
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(run_duckdb(Path(args.peer[0]), Path(args.peer[1]), int(args.peer[2]))))
        return
    num_events = 200_000 if args.quick else int(args.events)
    sizes = [num_events // 10, num_events] if args.growth else [num_events]
    found = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            found.append(
                measure(
                    Path(folder),
                    size,
                    args.min_events,
                    args.driver_memory,
                    is_skewed=args.skew,
                )
            )
        print(json.dumps(found[-1]), flush=True)
    largest = found[-1]
    growth = round(largest["seconds"] / found[0]["seconds"], 2) if args.growth else None  # type: ignore[operator]
    increment = None
    if args.increment:
        with tempfile.TemporaryDirectory() as folder:
            increment = measure_increment(Path(folder), num_events, args.driver_memory)
        print(json.dumps(increment), flush=True)
    config = {
        "cores": CORES,
        "min_events": args.min_events,
        "window": WINDOW,
        "skew": args.skew,
        "growth_of_10x": growth,
    }
    print(json.dumps({"bench": "etl", **largest, "increment": increment, "config": config}))


if __name__ == "__main__":
    main()
