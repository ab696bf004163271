"""What a job would read and write, for `--dry-run`: as values, and as lines for people."""

from collections import Counter
from dataclasses import dataclass

import pyarrow.fs as pafs
from pyspark.sql import DataFrame

from r2ec.etl.files import InputFile
from r2ec.storage import Warehouse

SHOWN_FILES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class InputPlan:
    """Files under one option, the column of each of our names, and the rows as Spark reads them.

    `columns` has None for what no file has; `rows` is for `--explain`.
    """

    option: str
    files: list[InputFile]
    columns: dict[str, str | None]
    rows: DataFrame

    def lines(self) -> list[str]:
        """Number, bytes and formats; which column is what; the files."""
        num_bytes = sum(file.num_bytes for file in self.files)
        formats = Counter(file.format for file in self.files)
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(formats.items()))
        named = (f"{name} = {column or '(none)'}" for name, column in self.columns.items())
        shown = [_file_line(file) for file in self.files[:SHOWN_FILES]]
        more = len(self.files) - len(shown)
        return [
            f"reads {self.option}: {len(self.files)} files, {num_bytes:,} bytes ({kinds})",
            _plain(f"  columns: {', '.join(named)}"),
            *map(_plain, shown),
            *([f"  and {more} more files"] if more else []),
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionPlan:
    """A partition that would be written, and what is there now."""

    place: str
    num_files: int = 0
    num_bytes: int = 0
    note: str = ""

    def line(self) -> str:
        """The partition, and whether it is new or replaces files."""
        replaced = f"replaces {self.num_files} files, {self.num_bytes:,} bytes"
        what = self.note or (replaced if self.num_files else "new")
        return f"  {self.place}: {what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobPlan:
    """All of a job that is known before a row is read."""

    job: str
    warehouse: Warehouse
    inputs: list[InputPlan]
    partitions: list[PartitionPlan]
    notes: list[str]

    def text(self) -> str:
        """The plan as people read it; its last line sums it up."""
        reads = [line for source in self.inputs for line in source.lines()]
        num_files = sum(len(source.files) for source in self.inputs)
        num_bytes = sum(file.num_bytes for source in self.inputs for file in source.files)
        num_replaced = sum(partition.num_files > 0 for partition in self.partitions)
        return "\n".join(
            [
                *reads,
                f"writes to {self.warehouse.path()}:",
                *(partition.line() for partition in self.partitions),
                *self.notes,
                f"{self.job} dry run: files in {num_files}, bytes in {num_bytes}, "
                f"partitions {len(self.partitions)}, replaced {num_replaced}; nothing was written",
            ]
        )


def partition_plan(warehouse: Warehouse, *parts: str, note: str = "") -> PartitionPlan:
    """A partition that would be written, with the files that are there now."""
    paths = [warehouse.path(file) for file in warehouse.list_files(*parts)]
    infos: list[pafs.FileInfo] = warehouse.filesystem.get_file_info(paths)
    return PartitionPlan(
        place="/".join(parts),
        num_files=len(infos),
        num_bytes=sum(info.size for info in infos),
        note=note,
    )


def columns_there(files: list[InputFile], columns: dict[str, str]) -> dict[str, str | None]:
    """The column of each of our names, None where none of the files has it."""
    return {
        name: column if any(file.has(column) for file in files) else None
        for name, column in columns.items()
    }


def _file_line(file: InputFile) -> str:
    columns = f": {', '.join(file.columns)}" if file.columns else ""
    state = f", cannot be read, left out: {file.error}" if file.error else columns
    return f"  {file.uri}, {file.format}, {file.num_bytes:,} bytes{state or ', empty'}"


def _plain(line: str) -> str:
    """Names come from the input: nothing in them that a terminal would act on."""
    return "".join(char if char.isprintable() else "\ufffd" for char in line)
