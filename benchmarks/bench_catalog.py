"""A catalog and its item rows made ready to score, up to 10^7 items: seconds and memory an item.

A catalog of made-up texts (176 characters an item) and its table of item rows. Measured, each
in a process of its own: `ours`, the catalog in memory; `mapped`, the same with no memory to spare,
so that texts and rows lie in mapped files; `objects`, the peer: the same rows read by pyarrow, an
object an item. Each looks up the same 10,000 items and is asked for the hash of all ids; ours also
finds the row of every item, which the peer does not. The last line is one JSON object: `ratio` is
the peer's time over ours, `memory_ratio` our memory for the texts over the peer's, `equal` whether
the items and hashes are the same.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import r2ec.catalog
import r2ec.retrieval.table
from r2ec import schemas
from r2ec.catalog import CatalogItem, load_catalog
from r2ec.infer.kept_rows import kept_rows
from r2ec.storage import Warehouse

VERSION = "2024-05-31"
MODEL = "0123456789ab"
ROWS_OF_A_FILE = 500_000
NUM_LOOKED_UP = 10_000
SIDES = ("ours", "mapped", "objects")


def write_shop(warehouse: Warehouse, num_items: int, hidden_size: int) -> None:
    """The catalog and the item rows of one model, in files of consecutive items."""
    source = np.random.default_rng(0)
    words = pa.array([f"word{number:04d}" for number in range(5000)])

    def texts(count: int, length: int) -> pa.Array:
        columns = [words.take(pa.array(source.integers(0, 5000, count))) for _ in range(length)]
        return pa.compute.binary_join_element_wise(*columns, " ")

    for file, first in enumerate(range(0, num_items, ROWS_OF_A_FILE)):
        count = min(ROWS_OF_A_FILE, num_items - first)
        index = np.arange(first, first + count)
        hashes = pa.array([hashlib.sha256(b"%d" % number).hexdigest() for number in index])
        rows = {
            "item_index": index,
            "item_id": pa.array([f"B{number:09d}" for number in index]),
            "title": texts(count, 5),
            "description": texts(count, 12),
            "category": texts(count, 2),
            "store": texts(count, 1),
            "price": source.random(count) * 100,
            "first_seen": pa.nulls(count, schemas.TIMESTAMP),
            "text_hash": hashes,
        }
        table = pa.table(rows, schema=schemas.CATALOG.schema)
        warehouse.write_parquet(table, "catalog", f"version={VERSION}", f"part-{file:05d}.parquet")
        values = source.standard_normal(count * hidden_size, dtype=np.float32)
        embedded = pa.table(
            [pa.array(index), hashes, pa.FixedSizeListArray.from_arrays(values, hidden_size)],
            schema=schemas.item_embeddings_schema(hidden_size),
        )
        warehouse.write_parquet(
            embedded, "item_embeddings", f"model={MODEL}", f"part-{file:05d}.parquet"
        )


def memory() -> int:
    """Bytes of this process that no file stands behind."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status tells no RssAnon")


def objects(warehouse: Warehouse) -> tuple[list[CatalogItem], str]:
    """All items as objects, and the hash of their ids."""
    table = warehouse.read_table(schemas.CATALOG, version=VERSION)
    names = [name for name in CatalogItem.__dataclass_fields__ if name != "item_index"]
    columns = [table[name].to_pylist() for name in names]
    items = [
        CatalogItem(item_index=index, **dict(zip(names, values, strict=True)))
        for index, values in enumerate(zip(*columns, strict=True))
    ]
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.item_id}\0".encode())
    return items, digest.hexdigest()[:16]


def measure(side: str, root: str) -> dict[str, Any]:
    """Seconds, memory and a digest of what was found, of one side in this process."""
    warehouse = Warehouse(root)
    if side == "mapped":
        r2ec.catalog.free_memory = r2ec.retrieval.table.free_memory = lambda: 0
    before, begin = memory(), time.perf_counter()
    if side == "objects":
        items, ids = objects(warehouse)
    else:
        catalog = load_catalog(warehouse)
        items, ids = catalog.items, catalog.fingerprint()
    looked_up = np.random.default_rng(1).integers(0, len(items), NUM_LOOKED_UP).tolist()
    found = [asdict(items[index]) for index in looked_up]
    seconds, held = time.perf_counter() - begin, memory() - before
    figures = {
        "seconds": round(seconds, 2),
        "bytes_an_item": round(held / len(items), 1),
        "digest": hashlib.sha256(json.dumps([ids, found]).encode()).hexdigest(),
    }
    if side != "objects":
        begin = time.perf_counter()
        table_IH, missing = kept_rows(warehouse, MODEL, catalog, None)
        figures["rows_seconds"] = round(time.perf_counter() - begin, 2)
        figures["rows_bytes_an_item"] = round((memory() - before - held) / len(items), 1)
        assert not len(missing), f"{len(missing)} items without a row"
        assert table_IH[:: len(items) // 7].any(dim=1).all()
    return figures


def main() -> None:
    """Write the shop, measure the sides, print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "ROOT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(*arguments.side)))
        return
    num_items = 200_000 if arguments.quick else arguments.items
    parts = {}
    with tempfile.TemporaryDirectory() as folder:
        write_shop(Warehouse(folder), num_items, arguments.hidden_size)
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            parts[side] = json.loads(done.stdout)
            print(side, parts[side], file=sys.stderr, flush=True)
    ours, peer = parts["ours"], parts["objects"]
    digests = {part.pop("digest") for part in parts.values()}
    figures = {
        "bench": "catalog",
        "ratio": round(peer["seconds"] / ours["seconds"], 2),
        "memory_ratio": round(ours["bytes_an_item"] / peer["bytes_an_item"], 3),
        "equal": len(digests) == 1,
        "parts": parts,
        "config": {"items": num_items, "hidden_size": arguments.hidden_size},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
