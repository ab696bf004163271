"""Exact top-k of whole catalogs against faiss's flat index, on the same rows in the same memory.

The rows lie in the faiss index itself and ours reads them there, so that a catalog stands in
memory once. faiss is given unit rows and unit states ready made; ours takes them as any others and
divides by their lengths. Equal: positions have the same score within the error of a float32
product, and an item that only one of them lists is within that error of the last place. The last
line is one JSON object; `ratio` is faiss's time over ours, the least of all shapes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHAPES = {  # items, hidden size, users
    "100k x 256": (100_000, 256, 2000),
    "100k x 2048": (100_000, 2048, 1000),
    "1m x 256": (1_000_000, 256, 1000),
    "1m x 2048": (1_000_000, 2048, 256),
}
QUICK = {"100k x 256": SHAPES["100k x 256"], "100k x 2048": (100_000, 2048, 500)}
_ROWS_AT_ONCE = 16_384  # that are drawn at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """Best seconds of one side and the bytes that it took beside rows and states."""

    seconds: float
    added_bytes: int


def compare(num_items: int, hidden_size: int, num_users: int, k: int, repeats: int) -> dict:
    """Both sides of one shape in this process, taking turns."""
    import faiss
    import torch

    from r2ec.retrieval.rank import top_k

    index = flat_index(num_items, hidden_size)
    rows = faiss.rev_swig_ptr(index.get_xb(), num_items * hidden_size)
    items_IH = torch.from_numpy(rows.reshape(num_items, hidden_size))
    source = torch.Generator().manual_seed(1)
    users_BH = unit_rows(torch.randn(num_users, hidden_size, generator=source))
    sides = {
        "faiss": lambda: index.search(users_BH.numpy(), k),
        "ours": lambda: top_k(users_BH, items_IH, k, temperature=1.0),
    }
    runs: dict[str, list[Side]] = {name: [] for name in sides}
    results = {}
    for _ in range(repeats):
        for name, act in sides.items():
            results[name] = None  # as much is held before as was before the first
            results[name], side = measure(act)
            runs[name].append(side)
    peer, ours = (
        Side(
            seconds=min(side.seconds for side in runs[name]),
            added_bytes=max(side.added_bytes for side in runs[name]),
        )
        for name in ("faiss", "ours")
    )
    same, share = agree(users_BH, items_IH, results["faiss"], results["ours"])
    return {
        "ratio": round(peer.seconds / ours.seconds, 3),
        "equal": same,
        "same_items_share": share,
        "users_per_second": round(num_users / ours.seconds, 1),
        "peer_users_per_second": round(num_users / peer.seconds, 1),
        "added_memory_bytes": ours.added_bytes,
        "peer_added_memory_bytes": peer.added_bytes,
        "users_by_items_bytes": 4 * num_users * num_items,
        "item_rows_bytes": 4 * num_items * hidden_size,
        "num_users": num_users,
    }


def flat_index(num_items: int, hidden_size: int) -> Any:
    """A flat inner-product index of random unit rows, filled in place."""
    import faiss
    import torch

    index = faiss.IndexFlatIP(hidden_size)
    index.codes.resize(4 * num_items * hidden_size)
    index.ntotal = num_items
    rows = faiss.rev_swig_ptr(index.get_xb(), num_items * hidden_size)
    items_IH = torch.from_numpy(rows.reshape(num_items, hidden_size))
    source = torch.Generator().manual_seed(0)
    for some_nH in items_IH.split(_ROWS_AT_ONCE):
        some_nH.copy_(unit_rows(torch.randn(some_nH.shape, generator=source)))
    return index


def unit_rows(rows: Any) -> Any:
    """The rows divided by their lengths."""
    return rows / rows.norm(dim=1, keepdim=True)


def measure(act: Callable[[], Any]) -> tuple[Any, Side]:
    """Result, seconds, and the peak of resident memory over what was resident before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is resident now
    before = resident_bytes("VmRSS")
    start = time.perf_counter()
    result = act()
    seconds = time.perf_counter() - start
    return result, Side(seconds=seconds, added_bytes=resident_bytes("VmHWM") - before)


def resident_bytes(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status tells no {field}")


def agree(users_BH: Any, items_IH: Any, peer: Any, ours: Any) -> tuple[bool, float]:
    """Whether both lists are the k best within the error of float32, and the share in common."""
    import torch

    from r2ec.retrieval.cosine import cosine_error_bound, exact_cosines

    (peer_scores, peer_items), (scores_BK, items_BK) = peer, ours
    error = 2 * cosine_error_bound(users_BH.shape[1])
    same = bool((torch.from_numpy(peer_scores) - scores_BK).abs().max() <= error)
    common = 0
    for user, (theirs, own) in enumerate(zip(peer_items.tolist(), items_BK.tolist(), strict=True)):
        common += len(set(theirs) & set(own))
        only_one = torch.tensor(sorted(set(theirs) ^ set(own)), dtype=torch.int64)
        cosines = exact_cosines(users_BH, items_IH, torch.full_like(only_one, user), only_one)
        same &= bool(((cosines - scores_BK[user, -1]).abs() <= error).all())
    return same, common / items_BK.numel()


def run_shape(shape: tuple[int, int, int], k: int, repeats: int, threads: int) -> dict:
    """`compare` in a process of its own: its memory goes back, its thread pools are of one size."""
    pools = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
    command = [sys.executable, __file__, "--shape", *map(str, shape)]
    command += ["--k", str(k), "--repeats", str(repeats), "--threads", str(threads)]
    done = subprocess.run(command, env=os.environ | pools, check=True, stdout=subprocess.PIPE)
    figures: dict = json.loads(done.stdout)
    return figures


def main() -> None:
    """Measure the shapes, print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--only", choices=sorted(SHAPES), help="this shape alone")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--shape", type=int, nargs=3, metavar=("ITEMS", "HIDDEN", "USERS"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.shape:
        print(json.dumps(compare(*arguments.shape, arguments.k, arguments.repeats)))
        return
    shapes = QUICK if arguments.quick else SHAPES
    if arguments.only:
        shapes = {arguments.only: SHAPES[arguments.only]}
    parts = {}
    for name, shape in shapes.items():
        parts[name] = run_shape(shape, arguments.k, arguments.repeats, arguments.threads)
        print(name, parts[name], file=sys.stderr, flush=True)
    figures = {
        "bench": "rank",
        "ratio": min(part["ratio"] for part in parts.values()),
        "equal": all(part["equal"] for part in parts.values()),
        "parts": parts,
        "config": {
            name: value for name, value in vars(arguments).items() if name not in ("shape", "only")
        },
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
