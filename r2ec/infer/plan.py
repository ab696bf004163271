"""What a scoring run is: its identity, its shards, and how a shard's users are cut into parts.

Everything follows from the inputs, so that a restarted pod, or a second one on the same shard,
works in the same folder, on the same parts, towards the same bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from r2ec import schemas
from r2ec.errors import UsageError
from r2ec.storage import Warehouse

STAGING = ("_staging", "score")
CACHE_GIB = 8.0  # of keys and values at most


class HasUser(Protocol):
    """Anything that belongs to one user, such as `tables.History`."""

    @property
    def user_id(self) -> str:
        """The shop's id of the user."""


UserRow = TypeVar("UserRow", bound=HasUser)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """One scoring run of a date; `build` derives `run_id` from all that decides the result.

    `settings` are those of the run as JSON. `carried_from` is the published run whose rows are
    carried over where nothing changed (`carry.py`), None for a full run.
    """

    date: str
    run_id: str
    model: str
    catalog_version: str
    catalog_fingerprint: str
    settings: str
    carried_from: str | None
    num_shards: int
    users_per_part: int
    batch_rows: int
    cache_gib: float = CACHE_GIB

    @classmethod
    def build(
        cls,
        *,
        date: str,
        model: str,
        catalog_version: str,
        catalog_fingerprint: str,
        histories: str,
        settings: Mapping[str, object],
        num_shards: int,
        users_per_part: int,
        batch_rows: int,
        cache_gib: float = CACHE_GIB,
        carried_from: str | None = None,
    ) -> "RunPlan":
        """The run of these inputs; the same inputs give the same `run_id`.

        `model` is the model's fingerprint, `catalog_fingerprint` that of the catalog's texts,
        `histories` that of `histories_fingerprint`, `settings` everything else that changes a row
        (top-k, sampling, seed, filters); JSON values only. `batch_rows`, and `cache_gib` which
        bounds them, are among them because another shape of a batch rounds otherwise. Raises
        `UsageError` for a number below 1.
        """
        counts = {
            "num_shards": num_shards,
            "users_per_part": users_per_part,
            "batch_rows": batch_rows,
        }
        if min(counts.values()) < 1:
            given = ", ".join(f"{name}={count}" for name, count in counts.items())
            raise UsageError(f"{given}: each is at least 1")
        decides = {
            "date": date,
            "model": model,
            "catalog_version": catalog_version,
            "catalog_fingerprint": catalog_fingerprint,
            "histories": histories,
            "settings": dict(settings),
            "carried_from": carried_from,
            "cache_gib": cache_gib,
            **counts,
        }
        text = json.dumps(decides, sort_keys=True)
        return cls(
            date=date,
            run_id=f"{date}-{hashlib.sha256(text.encode()).hexdigest()[:12]}",
            model=model,
            catalog_version=catalog_version,
            catalog_fingerprint=catalog_fingerprint,
            settings=json.dumps(dict(settings), sort_keys=True, ensure_ascii=False),
            carried_from=carried_from,
            cache_gib=cache_gib,
            **counts,
        )

    @property
    def staging(self) -> tuple[str, ...]:
        """Folder of the run's files until it is published, as parts of a warehouse path."""
        return run_staging(self.date, self.run_id)

    def to_json(self) -> bytes:
        """The plan as it stands in `plan.json` and in each shard's manifest."""
        return json.dumps(asdict(self), indent=1).encode()


def run_staging(date: str, run_id: str) -> tuple[str, ...]:
    """Folder of a staged run, as parts of a warehouse path."""
    return (*STAGING, f"date={date}", f"run_id={run_id}")


def published_folder(table: str, date: str, run_id: str) -> tuple[str, ...]:
    """Folder of a run's published rows, as parts of a warehouse path."""
    return table, f"date={date}", f"run_id={run_id}"


def part_name(shard: int, part: int) -> str:
    """`shard-00003-part-00017`: the stem of all files of a part."""
    return f"{shard_prefix(shard)}part-{part:05d}"


def shard_prefix(shard: int) -> str:
    """`shard-00003-`: what the names of all parts of a shard begin with."""
    return f"shard-{shard:05d}-"


def shard_of(user_id: str, num_shards: int) -> int:
    """Shard of a user: a hash of the id alone, the same on every machine and in every run."""
    digest = hashlib.blake2b(user_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % num_shards


def expected_users(warehouse: Warehouse, date: str, num_shards: int) -> int:
    """How many users a shard has, by the footers of the date's files.

    Exact for one shard; near it for several, since a hash draws them.
    """
    files = warehouse.list_files("histories", f"date={date}")
    return round(sum(warehouse.count_rows(file) for file in files) / num_shards)


def shard_parts(
    rows: Iterable[UserRow], plan: RunPlan, shard: int
) -> Iterator[tuple[int, list[UserRow]]]:
    """Parts of a shard: (part number, rows of at most `users_per_part` users), from part 0.

    `rows` are users of the date, at least those of the shard, by ascending `user_id`; one part is
    held in memory at a time. Raises `UsageError` for a user who stands there twice.
    """
    if not 0 <= shard < plan.num_shards:
        raise UsageError(f"shard {shard} of {plan.num_shards}: shards count from 0")
    part, chunk = 0, list[UserRow]()
    for row in ascending_users(rows, plan.date):
        if shard_of(row.user_id, plan.num_shards) != shard:
            continue
        chunk.append(row)
        if len(chunk) == plan.users_per_part:
            yield part, chunk
            part, chunk = part + 1, []
    if chunk:
        yield part, chunk


def ascending_users(rows: Iterable[UserRow], date: str) -> Iterator[UserRow]:
    """Sorted rows as they come.

    Raises `UsageError` for a user who stands there twice, `ValueError` for rows out of order.
    """
    before: str | None = None
    for row in rows:
        if before is not None and row.user_id < before:
            raise ValueError(f"user {row.user_id!r} comes after {before!r}: sort them first")
        if row.user_id == before:
            raise UsageError(
                f"histories/date={date}: user {row.user_id!r} stands there more than once; build it"
                f" again with spark-submit jobs/build_sequences.py --date {date}"
            )
        before = row.user_id
        yield row


def end_of_day(date: str) -> int:
    """The first microsecond after an ISO day (UTC)."""
    day = datetime.fromisoformat(date).replace(tzinfo=UTC)
    return int(day.timestamp()) * 1_000_000 + 86_400_000_000


def histories_fingerprint(warehouse: Warehouse, date: str) -> str:
    """Fingerprint (16 hex digits) of the users and history hashes of a date, in whatever order.

    Raises `NotReadyError` when the date has no histories.
    """
    total = 0
    columns = ["user_id", "history_hash"]
    batches = warehouse.iter_batches(
        schemas.HISTORIES, batch_rows=65_536, columns=columns, date=date
    )
    for batch in batches:
        for user_id, history_hash in zip(
            *(batch[name].to_pylist() for name in columns), strict=True
        ):
            row = hashlib.blake2b(f"{user_id}\0{history_hash}".encode(), digest_size=16).digest()
            total += int.from_bytes(row, "big")
    return hashlib.sha256(str(total).encode()).hexdigest()[:16]
