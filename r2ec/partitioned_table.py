"""A table whose files are looked for when a query asks for rows, and only where it asks."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from r2ec.storage import Warehouse


class PartitionedTable(ds.Dataset):  # type: ignore[misc]
    """The files under `folders` of a table, to be scanned by DuckDB.

    DuckDB asks a dataset for its `schema` and, for each scan of a query, for a `scanner` of the
    columns and rows that it needs. Folders that the filter rules out by their partition columns are
    not listed, and a table that no query names costs nothing. A filter on other columns passes over
    row groups by their statistics.

    `find_folders` gives the folders of all partitions, relative to the root; `confirm` is called
    with those that were listed, and raises when they are no longer the table's.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        fields: Iterable[pa.Field],
        partitions: Sequence[pa.Field],
        find_folders: Callable[[], list[str]],
        confirm: Callable[[list[str]], None],
    ) -> None:
        self._warehouse = warehouse
        self._schema = pa.schema([*(field.with_nullable(True) for field in fields), *partitions])
        self._partitions = pa.schema(partitions)
        self._find_folders, self._confirm = find_folders, confirm

    @property
    def schema(self) -> pa.Schema:
        """The columns in the files, then those of the path."""
        return self._schema

    def scanner(
        self,
        columns: list[str] | None = None,
        filter: ds.Expression | None = None,
        **options: Any,
    ) -> ds.Scanner:
        """A scanner of the files in the folders that the filter leaves."""
        folders = self._find_folders()
        if filter is not None and len(self._partitions):
            folders = self._matching(folders, filter)
        files = [path for folder in folders for path in self._warehouse.list_files(folder)]
        self._confirm(folders)
        return self._dataset(files).scanner(columns=columns, filter=filter, **options)

    def _matching(self, folders: list[str], filter: ds.Expression) -> list[str]:
        """The folders whose partition columns may satisfy the filter; nothing is opened."""
        fragments = self._dataset(folders).get_fragments(filter)
        names = {self._warehouse.path(folder): folder for folder in folders}
        return [names[fragment.path] for fragment in fragments]

    def _dataset(self, paths: list[str]) -> ds.Dataset:
        partitioning = ds.partitioning(self._partitions, flavor="hive")
        return ds.FileSystemDataset.from_paths(
            [self._warehouse.path(path) for path in paths],
            schema=self._schema,
            format=ds.ParquetFileFormat(),
            filesystem=self._warehouse.filesystem,
            # What stands after the last slash is taken for a file's name.
            partitions=[partitioning.parse(f"/{path}/") for path in paths],
        )
