"""How many rows a partition was written with: a small file beside its Parquet files.

A job counts what it writes; `r2ec-cli audit` counts again. A file that was lost, cut off, added or
written to by something else shows.
"""

import json

import pyarrow as pa
import pyarrow.fs as pafs

from r2ec.storage import Warehouse

COUNTS_NAME = "_row_counts.json"


def write_row_counts(warehouse: Warehouse, *parts: str) -> int:
    """Count the rows of a folder's Parquet files by their footers, and lay the numbers beside."""
    counts = {
        path.rsplit("/", 1)[-1]: warehouse.count_rows(path) for path in warehouse.list_files(*parts)
    }
    warehouse.replace_file(json.dumps(counts, indent=1).encode(), *parts, COUNTS_NAME)
    return sum(counts.values())


def change_row_counts(warehouse: Warehouse, folder: str, rows: dict[str, tuple[int, int]]) -> None:
    """Lower the numbers of the files named: from how many rows to how many.

    A file that has another number of rows than it was written with keeps it, and still shows; so
    does one whose number was lowered before.
    """
    try:
        counts = json.loads(warehouse.read_file(folder, COUNTS_NAME))
    except FileNotFoundError:
        return
    lowered = counts | {
        name: after for name, (before, after) in rows.items() if counts.get(name) == before
    }
    if lowered != counts:
        data = json.dumps(lowered, indent=1).encode()
        warehouse.replace_file(data, folder, COUNTS_NAME)


def check_row_counts(warehouse: Warehouse) -> list[str]:
    """What is not as it was written, a line each; partitions without counts are not looked at."""
    return [
        line
        for folder in _counted_folders(warehouse)
        for line in check_folder(warehouse, folder)[0]
    ]


def check_folder(warehouse: Warehouse, *parts: str) -> tuple[list[str], int]:
    """What is not as it was written in one folder, a line each; and the rows that were written."""
    folder = "/".join(parts)
    try:
        wanted = json.loads(warehouse.read_file(folder, COUNTS_NAME))
    except FileNotFoundError:
        return [f"{folder}/{COUNTS_NAME} is missing"], 0
    found = []
    there = {path.rsplit("/", 1)[-1]: path for path in warehouse.list_files(folder)}
    for name in sorted({*wanted, *there}):
        if name not in there:
            found.append(f"{folder}/{name} is missing: {wanted[name]} rows were written")
        elif name not in wanted:
            found.append(f"{folder}/{name} was not written by the job")
        else:
            found += _difference(warehouse, there[name], wanted[name])
    return found, sum(wanted.values())


def _difference(warehouse: Warehouse, path: str, num_wanted: int) -> list[str]:
    try:
        num_rows = warehouse.count_rows(path)
    except (OSError, pa.ArrowException) as error:
        return [f"{path} cannot be read: {str(error).splitlines()[0]}"]
    return (
        [f"{path} has {num_rows} rows: {num_wanted} were written"] if num_rows != num_wanted else []
    )


def _counted_folders(warehouse: Warehouse) -> list[str]:
    """Folders, relative to the root, that have counts; none of those that readers ignore."""
    top = warehouse.path()
    selector = pafs.FileSelector(top, allow_not_found=True, recursive=True)
    infos = warehouse.filesystem.get_file_info(selector)
    places = [
        info.path.removeprefix(top).lstrip("/") for info in infos if info.base_name == COUNTS_NAME
    ]
    folders = [place.removesuffix(f"/{COUNTS_NAME}") for place in places]
    return sorted(folder for folder in folders if not folder.startswith(("_", ".")))
