"""`--changed-only`: rows of the last published date, carried over where nothing changed.

A user is unchanged when the history is (`history_hash`) and the prompt has the same words on both
days: prompts tell ages (`6 days ago`), so a history that stayed the same reads otherwise once an
age passes a whole unit. Model, texts of the catalog and settings must be the same for all, else
every user is scored. What is carried over then equals what would have been generated.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from r2ec import schemas
from r2ec.errors import R2ecError
from r2ec.infer.plan import end_of_day, published_folder, shard_prefix
from r2ec.storage import Warehouse
from r2ec.tables import History
from r2ec.text.prompts import reads_the_same


@dataclass(frozen=True, kw_only=True, slots=True)
class CarrySource:
    """The published run whose rows may be carried over; `now` is the end of its date."""

    date: str
    run_id: str
    num_shards: int

    @property
    def now(self) -> int:
        """The end of the date in microseconds."""
        return end_of_day(self.date)


def find_source(
    warehouse: Warehouse,
    date: str,
    *,
    model: str,
    catalog_fingerprint: str,
    settings: Mapping[str, object],
) -> CarrySource | str:
    """The last run published before a date, or why every user must be scored, in words."""
    earlier = [day for day in warehouse.partitions("runs", "date") if day < date]
    if not earlier:
        return f"nothing is published before {date}"
    day = earlier[-1]
    run = warehouse.read_table(schemas.RUNS, date=day).to_pylist()[0]
    if run["settings"] is None or run["catalog_fingerprint"] is None:
        return f"it is not known with which settings {day} was scored"
    if run["model"] != model:
        return f"{day} was scored with model {run['model']}, this is model {model}"
    if run["catalog_fingerprint"] != catalog_fingerprint:
        return (
            f"items or texts of the catalog changed since {day}, which was scored with version"
            f" {run['catalog_version']}"
        )
    changed = _changed_settings(json.loads(run["settings"]), settings)
    if changed:
        return f"{day} was scored with other settings: {changed}"
    return CarrySource(date=day, run_id=run["run_id"], num_shards=run["num_shards"])


def _changed_settings(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name} {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    )


class PublishedRows:
    """The rows of a published run, asked for by ascending stretches of users.

    One part of each of its shards is held in memory at a time.
    """

    def __init__(self, warehouse: Warehouse, source: CarrySource, shard: int | None) -> None:
        """`shard` is the only one to look into, where users are shared out as they were then."""
        self._source = source
        shards = range(source.num_shards) if shard is None else [shard]
        folder = published_folder("reasoning", source.date, source.run_id)
        names = [path.rsplit("/", 1)[-1] for path in warehouse.list_files(*folder)]
        self._shards = [
            _PublishedShard(
                warehouse, source, [name for name in names if name.startswith(shard_prefix(number))]
            )
            for number in shards
        ]

    def unchanged(
        self, users: Sequence[History], history_items: int
    ) -> tuple[pa.Table, pa.Table] | None:
        """Recommendations and reasoning of those users (by ascending id) that did not change.

        The reasoning has status `carried`. None when nobody is unchanged. Failed users are not
        carried over. Raises `R2ecError` when the run was replaced in the meantime.
        """
        asked = {user.user_id: user for user in users}
        first, last = users[0].user_id, users[-1].user_id
        found = [rows for shard in self._shards for rows in shard.between(first, last)]
        kept: list[tuple[pa.Table, pa.Table]] = []
        for ranked, reasons in found:
            names = [
                row["user_id"]
                for row in reasons.select(["user_id", "history_hash", "status"]).to_pylist()
                if row["status"] != "error"
                and row["user_id"] in asked
                and not asked[row["user_id"]].fault
                and row["history_hash"] == asked[row["user_id"]].history_hash
                and reads_the_same(asked[row["user_id"]], self._source.now, history_items)
            ]
            if names:
                kept.append((_of(ranked, names), _of(reasons, names)))
        if not kept:
            return None
        ranked, reasons = (pa.concat_tables(tables) for tables in zip(*kept, strict=True))
        place = reasons.schema.get_field_index("status")
        status = pa.array(["carried"] * reasons.num_rows, pa.string())
        return ranked, reasons.set_column(place, reasons.schema.field(place), status)


class _PublishedShard:
    """The parts of one shard of a published run, read in the order of their users."""

    def __init__(self, warehouse: Warehouse, source: CarrySource, names: Sequence[str]) -> None:
        self._warehouse, self._source = warehouse, source
        self._waiting = deque(names)
        self._reasons: pa.Table | None = None
        self._ranked: pa.Table | None = None
        self._name = ""

    def between(self, first: str, last: str) -> list[tuple[pa.Table, pa.Table]]:
        """The parts that may hold users from `first` to `last`; what is before them is left."""
        found: list[tuple[pa.Table, pa.Table]] = []
        while self._waiting or self._reasons is not None:
            if self._reasons is None:
                self._name, self._ranked = self._waiting.popleft(), None
                self._reasons = self._read("reasoning")
            names = self._reasons["user_id"]
            if not len(names) or names[-1].as_py() < first:
                self._reasons = None
                continue
            if names[0].as_py() > last:
                break
            if self._ranked is None:
                self._ranked = self._read("recommendations")
            found.append((self._ranked, self._reasons))
            if names[-1].as_py() > last:
                break
            self._reasons = None
        return found

    def _read(self, table: str) -> pa.Table:
        folder = published_folder(table, self._source.date, self._source.run_id)
        try:
            data = self._warehouse.read_file(*folder, self._name)
        except FileNotFoundError as error:
            raise R2ecError(
                f"run {self._source.run_id} of {self._source.date}, whose rows are carried over,"
                " was replaced or lost files in the meantime: run the same command again, or"
                " without --changed-only"
            ) from error
        return pq.read_table(pa.BufferReader(data))


def _of(rows: pa.Table, users: Sequence[str]) -> pa.Table:
    return rows.filter(pc.is_in(rows["user_id"], pa.array(users, pa.string())))
