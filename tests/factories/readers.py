"""What plain engines see of a warehouse, without our own readers."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import duckdb

from r2ec.storage import Warehouse


def visible_rows(warehouse: Warehouse) -> dict[str, tuple[int, int, int]]:
    """What a plain engine sees: run -> (recommendations, distinct (user, rank), reasonings)."""
    root, found = Path(warehouse.path()), {}
    if not list(root.glob("runs/*/run.parquet")):
        return {}
    counts = []
    with duckdb.connect() as connection:
        for table in ("recommendations", "reasoning"):
            keys = "user_id, rank" if table == "recommendations" else "user_id"
            if not list(root.glob(f"{table}/*/*/*.parquet")):
                counts.append({})
                continue
            rows = connection.execute(
                f"""
                SELECT run_id, count(*), count(DISTINCT ({keys}))
                FROM read_parquet('{root}/{table}/*/*/*.parquet', hive_partitioning = true) AS rows
                JOIN read_parquet('{root}/runs/*/*.parquet', hive_partitioning = true) AS runs
                USING (date, run_id) GROUP BY run_id
                """
            ).fetchall()
            counts.append({run: (rows, keys) for run, rows, keys in rows})
        runs = connection.execute(f"SELECT run_id FROM read_parquet('{root}/runs/*/*.parquet')")
        for (run,) in runs.fetchall():
            ranked, reasons = (count.get(run, (0, 0)) for count in counts)
            assert reasons[0] == reasons[1]
            found[run] = (ranked[0], ranked[1], reasons[0])
    return found


def contents(warehouse: Warehouse) -> dict[str, str]:
    """SHA-256 of every Parquet file that readers see, `runs` left out (it has a time)."""
    files = warehouse.list_files("recommendations") + warehouse.list_files("reasoning")
    return {file: hashlib.sha256(warehouse.read_file(file)).hexdigest() for file in files}


def damage(warehouse: Warehouse, path: str, change: Callable[[bytes], bytes]) -> None:
    file = Path(warehouse.path(path))
    file.write_bytes(change(file.read_bytes()))
