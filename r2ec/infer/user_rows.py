"""The rows of some users in one Parquet file: counted, and left out of it.

A row belongs to a user by its column `user_id`; a rejected row, which has none, by its raw text,
where the id stands as a word of its own. Row groups whose statistics exclude the users are not
decoded, and one row group is held in memory at a time.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from r2ec.storage import Warehouse

KEY, TEXT = "user_id", "line"
# Forms of ids in one expression: more of them take too much memory of the regular expressions.
_FORMS_AT_ONCE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRows:
    """What a file holds: all its rows, those of the users, and which of the users these are."""

    path: str
    num_rows: int
    num_found: int
    users: frozenset[str]

    @property
    def num_left(self) -> int:
        """Rows of everybody else."""
        return self.num_rows - self.num_found


class UserFilter:
    """Tells the rows of these users."""

    def __init__(self, users: Iterable[str]) -> None:
        self.users = frozenset(users)
        self._sorted = sorted(self.users)
        self._ids = pa.array(self._sorted, pa.string())
        self._forms = {user: _written_forms(user) for user in self._sorted}

    def find(self, warehouse: Warehouse, path: str) -> FoundRows:
        """Count the users' rows in a file; a file without a column to go by has none."""
        found, users = 0, set[str]()
        with warehouse.filesystem.open_input_file(warehouse.path(path)) as stream:
            file = pq.ParquetFile(stream)
            column = _column(file)
            for group in self._groups(file, column):
                values = file.read_row_group(group, columns=[column])[column]
                hits = values.filter(self._is_theirs(values, column))
                found += len(hits)
                users |= self._named(hits, column)
            num_rows = file.metadata.num_rows
        return FoundRows(path=path, num_rows=num_rows, num_found=found, users=frozenset(users))

    def remove(self, warehouse: Warehouse, path: str) -> None:
        """Write the file anew without the users' rows; the others keep values and order."""
        with (
            warehouse.filesystem.open_input_file(warehouse.path(path)) as stream,
            warehouse.replacing(path) as target,
        ):
            file = pq.ParquetFile(stream)
            column = _column(file)
            with pq.ParquetWriter(
                target,
                file.schema_arrow,
                compression="zstd",
                use_dictionary=_dictionary_columns(file),
            ) as writer:
                for rows in self._others(file, column):
                    writer.write_table(rows, row_group_size=max(rows.num_rows, 1))
        folder, _, name = path.rpartition("/")
        # Hadoop holds a local file against the checksum beside it.
        warehouse.remove_file(folder, f".{name}.crc")

    def excludes(self, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """True for the ids of a column `user_id` that are none of these users."""
        return pc.invert(self._is_theirs(values, KEY))

    def _others(self, file: pq.ParquetFile, column: str | None) -> Iterator[pa.Table]:
        touched = set(self._groups(file, column))
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            if group in touched:
                rows = rows.filter(pc.invert(self._is_theirs(rows[column], column)))
            if rows.num_rows:
                yield rows

    def _groups(self, file: pq.ParquetFile, column: str | None) -> list[int]:
        """The row groups that may hold one of the users, by their lowest and highest id."""
        if column is None:
            return []
        if column == TEXT:
            return list(range(file.num_row_groups))
        place = _leaves(file).index(column)
        groups = []
        for group in range(file.num_row_groups):
            known = file.metadata.row_group(group).column(place).statistics
            if known is None or not known.has_min_max or self._any(known.min, known.max):
                groups.append(group)
        return groups

    def _any(self, lowest: str, highest: str) -> bool:
        place = bisect_left(self._sorted, lowest)
        return place < len(self._sorted) and self._sorted[place] <= highest

    def _is_theirs(self, values: pa.ChunkedArray, column: str | None) -> pa.ChunkedArray:
        if column == KEY:
            return pc.is_in(values.cast(pa.string()), value_set=self._ids)
        forms = [form for user in self._sorted for form in self._forms[user]]
        is_theirs = pa.chunked_array([pa.repeat(False, len(values))])
        for start in range(0, len(forms), _FORMS_AT_ONCE):
            pattern = _as_words(forms[start : start + _FORMS_AT_ONCE])
            matches = pc.fill_null(pc.match_substring_regex(values, pattern), False)
            is_theirs = pc.or_(is_theirs, matches)
        return is_theirs

    def _named(self, hits: pa.ChunkedArray, column: str | None) -> set[str]:
        texts = hits.unique().to_pylist()
        if column == KEY:
            return set(texts)
        return {
            user
            for user in self._sorted
            if any(form in text for text in texts for form in self._forms[user])
        }


def _column(file: pq.ParquetFile) -> str | None:
    leaves = _leaves(file)
    return next((name for name in (KEY, TEXT) if name in leaves), None)


def _leaves(file: pq.ParquetFile) -> list[str]:
    return [file.schema.column(place).path for place in range(len(file.schema))]


def _dictionary_columns(file: pq.ParquetFile) -> list[str]:
    """The columns that the file's writer gave a dictionary: sizes depend on it."""
    if not file.num_row_groups:
        return []
    first = file.metadata.row_group(0)
    columns = [first.column(place) for place in range(first.num_columns)]
    return [column.path_in_schema for column in columns if column.has_dictionary_page]


def _written_forms(user: str) -> set[str]:
    """How an id stands in a line of CSV or JSON."""
    quoted = (json.dumps(user), json.dumps(user, ensure_ascii=False))
    return {user, user.replace('"', '""'), *(text[1:-1] for text in quoted)}


def _as_words(forms: list[str]) -> str:
    """A pattern (RE2) of these texts where no letter, digit or underscore touches them."""
    letter = r"[^\p{L}\p{N}_]"
    return rf"(?:^|{letter})(?:{'|'.join(map(_quoted, forms))})(?:$|{letter})"


def _quoted(text: str) -> str:
    return re.sub(r"[^\w]", lambda found: _code(found[0]), text)


def _code(character: str) -> str:
    return f"\\x{{{ord(character):x}}}"
