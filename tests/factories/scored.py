"""Histories and scored runs, made without a model: rows that follow from the user's id alone."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from r2ec import schemas
from r2ec.infer.plan import RunPlan, histories_fingerprint, shard_parts
from r2ec.infer.writer import ShardWriter
from r2ec.storage import Warehouse

DATE = "2024-05-31"


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """The one column that cutting into shards and parts looks at."""

    user_id: str


def write_histories(
    warehouse: Warehouse, num_users: int, *, date: str = DATE, salt: str = ""
) -> list[User]:
    """Histories of users u0000 …, in two files; `salt` changes every history's hash.

    As a build leaves them: each file has users from everywhere, in stretches that ascend.
    """
    names = [user.user_id for user in users_of(num_users)]
    cut = len(names) // 2
    for file, users in enumerate(
        (names[cut::2] + names[:cut:2], names[1:cut:2] + names[cut + 1 :: 2])
    ):
        rows = {
            "user_id": users,
            "history_item_index": [[0, 1]] * len(users),
            "history_rating": [[5.0, 4.0]] * len(users),
            "history_time": [[datetime(2024, 1, 1, tzinfo=UTC)] * 2] * len(users),
            "history_hash": [history_hash(user, salt) for user in users],
        }
        table = pa.table(rows, schema=schemas.HISTORIES.schema)
        warehouse.write_parquet(table, "histories", f"date={date}", f"part-{file:05d}.parquet")
    return users_of(num_users)


def users_of(num_users: int) -> list[User]:
    """Users u0000 … by ascending id."""
    return [User(user_id=f"u{number:04d}") for number in range(num_users)]


def history_hash(user: str, salt: str = "") -> str:
    return hashlib.sha256(f"{user}{salt}".encode()).hexdigest()[:16]


def plan_of(
    warehouse: Warehouse,
    *,
    date: str = DATE,
    model: str = "0123456789ab",
    num_shards: int = 2,
    users_per_part: int = 3,
    batch_rows: int = 256,
) -> RunPlan:
    return RunPlan.build(
        date=date,
        model=model,
        catalog_version="2024-05-30",
        catalog_fingerprint="0123456789abcdef",
        histories=histories_fingerprint(warehouse, date),
        settings={"top_k": 3},
        num_shards=num_shards,
        users_per_part=users_per_part,
        batch_rows=batch_rows,
    )


def part_tables(
    plan: RunPlan, users: list[User], *, salt: str = "", failed: tuple[str, ...] = ()
) -> tuple[pa.Table, pa.Table]:
    """Recommendations (3 a user) and reasoning of these users under this plan's model."""
    ranked, reasons = [], []
    for user in (user.user_id for user in users):
        seed = int(hashlib.sha256(f"{user}{plan.model}".encode()).hexdigest()[:6], 16)
        is_failed = user in failed
        for rank in range(0 if is_failed else 3):
            index = (seed + rank) % 50
            row = {"user_id": user, "rank": rank + 1, "item_id": f"i{index}", "item_index": index}
            ranked.append({**row, "score": 9.0 - rank})
        reasons.append(
            {
                "user_id": user,
                "reasoning": None if is_failed else f"{plan.model} thinks of {user}",
                "finish_reason": None if is_failed else "marker",
                "prompt_tokens": None if is_failed else 100,
                "reasoning_tokens": None if is_failed else 7,
                "history_hash": history_hash(user, salt),
                "status": "error" if is_failed else "ok",
                "error": "the row was poisoned" if is_failed else None,
            }
        )
    return (
        pa.Table.from_pylist(ranked, schema=schemas.RECOMMENDATIONS.schema),
        pa.Table.from_pylist(reasons, schema=schemas.REASONING.schema),
    )


def score_shard(
    warehouse: Warehouse,
    plan: RunPlan,
    shard: int,
    users: list[User],
    *,
    salt: str = "",
    failed: tuple[str, ...] = (),
) -> list[int]:
    """Score a shard as the scorer does; returns the parts that had to be made."""
    writer = ShardWriter(warehouse, plan, shard)
    done = writer.finished_parts()
    made, num_parts = [], 0
    for part, chunk in shard_parts(users, plan, shard):
        num_parts += 1
        if part in done:
            continue
        ranked, reasons = part_tables(plan, chunk, salt=salt, failed=failed)
        writer.write_part(part, ranked, reasons, device_seconds=1.8, wall_seconds=2.0)
        made.append(part)
    writer.finish(num_parts)
    return made


def score_run(
    warehouse: Warehouse,
    users: list[User],
    *,
    model: str = "0123456789ab",
    num_shards: int = 2,
    users_per_part: int = 3,
) -> RunPlan:
    """Score all shards of a run of `DATE`."""
    plan = plan_of(warehouse, model=model, num_shards=num_shards, users_per_part=users_per_part)
    for shard in range(num_shards):
        score_shard(warehouse, plan, shard, users)
    return plan
