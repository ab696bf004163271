"""Is a staged run whole? Every shard, every file, every user of the date exactly once."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from r2ec import schemas
from r2ec.errors import NotReadyError, R2ecError
from r2ec.infer.by_user import sorted_by_user
from r2ec.infer.manifest import TABLES, PartRecord, ShardManifest, manifest_from_json
from r2ec.infer.plan import RunPlan, ascending_users, shard_of
from r2ec.infer.writer import check_part, read_part_file
from r2ec.storage import FilePart, Warehouse


class DamagedRunError(R2ecError):
    """A staged run holds something else than what was scored (exit code 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredUser:
    """A user with the hash of the history that the recommendations were made from."""

    user_id: str
    history_hash: str


def load_manifests(
    warehouse: Warehouse, staging: tuple[str, ...], date: str, run_id: str
) -> list[ShardManifest]:
    """Manifests of all shards of a staged run, in order.

    Raises `NotReadyError` naming the shards that are not finished, `DamagedRunError` for a
    manifest that is none or belongs to another plan.
    """
    found: dict[int, ShardManifest] = {}
    for path in warehouse.list_files(*staging, suffix=".json"):
        name = path.rsplit("/", 1)[-1]
        if name.startswith("shard-") and path == "/".join([*staging, name]):
            try:
                manifest = manifest_from_json(warehouse.read_file(path))
            except ValueError as error:
                digits = name.removeprefix("shard-").removesuffix(".json")
                raise DamagedRunError(
                    f"{warehouse.path(path)} is damaged ({error}): {_again(date, int(digits))}"
                ) from error
            found[manifest.shard] = manifest
    if not found:
        raise NotReadyError(
            f"run {run_id} of {date}: no shard is finished: r2ec-cli score --date {date}"
        )
    plan = next(iter(found.values())).plan
    missing = sorted(set(range(plan.num_shards)) - set(found))
    if missing:
        raise NotReadyError(
            f"run {run_id} of {date}: shard {', '.join(map(str, missing))} of {plan.num_shards} "
            f"not finished: {_again(date, missing[0], plan.num_shards)}; "
            f"if it was given up, remove {warehouse.path(*staging)}"
        )
    for shard, manifest in found.items():
        if manifest.plan != plan or plan.run_id != run_id or shard >= plan.num_shards:
            raise DamagedRunError(
                f"the manifest of shard {shard} in {warehouse.path(*staging)} is of another plan: "
                "remove that folder and score again"
            )
    return [found[shard] for shard in range(plan.num_shards)]


def verify_run(warehouse: Warehouse, manifests: list[ShardManifest]) -> None:
    """Raise `DamagedRunError` unless the files are those of the manifests and hold every user of
    `histories/date=D` exactly once, made from that history, with ranks 1, 2, 3, …

    A file may lie in staging or, after a publishing that was cut off, in place already. One part
    of each shard is held in memory.
    """
    plan = manifests[0].plan
    scored = [_scored_users(warehouse, manifest) for manifest in manifests]
    for user in ascending_users(_expected_users(warehouse, plan.date), plan.date):
        shard = shard_of(user.user_id, plan.num_shards)
        found = next(scored[shard], None)
        if found is None or found.user_id > user.user_id:
            raise _damaged(plan, shard, f"user {user.user_id!r} is missing")
        if found.user_id < user.user_id:
            raise _damaged(plan, shard, f"user {found.user_id!r} is none of the date's histories")
        if found.history_hash != user.history_hash:
            raise _damaged(plan, shard, f"user {user.user_id!r} was scored from another history")
    for shard, rest in enumerate(scored):
        extra = next(rest, None)
        if extra is not None:
            raise _damaged(plan, shard, f"user {extra.user_id!r} is none of the date's histories")


def _expected_users(warehouse: Warehouse, date: str) -> Iterator[ScoredUser]:
    batches = warehouse.iter_batches(
        schemas.HISTORIES, batch_rows=65_536, columns=["user_id", "history_hash"], date=date
    )
    for rows in sorted_by_user(batches):
        yield from _users(rows)


def _scored_users(warehouse: Warehouse, manifest: ShardManifest) -> Iterator[ScoredUser]:
    """The users of a shard in the order of its parts, each part checked before."""
    before: str | None = None
    for number, part in enumerate(manifest.parts):
        reasons = _checked_reasons(warehouse, manifest, part)
        if part.part != number or reasons.num_rows != part.num_users:
            raise _damaged(manifest.plan, manifest.shard, f"part {number} is another one")
        for user in _users(reasons):
            if before is not None and user.user_id <= before:
                raise _damaged(
                    manifest.plan, manifest.shard, f"user {user.user_id!r} stands there twice"
                )
            before = user.user_id
            yield user


def _checked_reasons(warehouse: Warehouse, manifest: ShardManifest, part: PartRecord) -> pa.Table:
    """The part's reasoning, after both its tables were checked."""
    plan = manifest.plan
    tables = []
    for table, file in zip(TABLES, part.files, strict=True):
        data = _read_file(warehouse, plan, manifest.shard, file)
        rows = pq.read_table(pa.BufferReader(data))
        if rows.schema != schemas.TABLES[table].schema or rows.num_rows != file.num_rows:
            raise _damaged(plan, manifest.shard, f"{file.path} has other columns or rows")
        tables.append(rows)
    try:
        check_part(tables[0], tables[1], plan.num_shards, manifest.shard)
    except ValueError as error:
        raise _damaged(plan, manifest.shard, f"part {part.part}: {error}") from error
    return tables[1]


def _read_file(warehouse: Warehouse, plan: RunPlan, shard: int, file: FilePart) -> bytes:
    try:
        data = read_part_file(warehouse, plan, file)
    except FileNotFoundError as error:
        raise _damaged(plan, shard, f"{file.path} is missing") from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise _damaged(plan, shard, f"{file.path} has another SHA-256 than in the manifest")
    return data


def _users(rows: pa.Table | pa.RecordBatch) -> Iterator[ScoredUser]:
    columns = rows["user_id"].to_pylist(), rows["history_hash"].to_pylist()
    for user_id, history_hash in zip(*columns, strict=True):
        yield ScoredUser(user_id=user_id, history_hash=history_hash)


def _damaged(plan: RunPlan, shard: int, what: str) -> DamagedRunError:
    return DamagedRunError(
        f"run {plan.run_id} of {plan.date}, shard {shard}: {what}; nothing was published: "
        f"{_again(plan.date, shard, plan.num_shards)}"
    )


def _again(date: str, shard: int, num_shards: int | None = None) -> str:
    of = f" --num-shards {num_shards}" if num_shards is not None else ""
    return f"r2ec-cli score --date {date} --shard {shard}{of}"
