"""Writes the parts of one shard aside, so that a restart loses no part that was written.

Layout under `_staging/score/date=D/run_id=R/`:

    plan.json                                       the run
    recommendations/shard-00000-part-00000.parquet  by (user_id, rank)
    reasoning/shard-00000-part-00000.parquet        by user_id
    parts/shard-00000-part-00000.json               after both files: rows, users, SHA-256
    shard-00000.json                                last: the shard is complete

Nothing is staged before the first part. Each file appears whole or not at all, and the same users
give the same bytes on the same kind of machine, so two pods on one shard overwrite each other with
what is there already.
"""

import hashlib
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from r2ec import schemas
from r2ec.errors import UsageError
from r2ec.infer.manifest import (
    PartRecord,
    ShardManifest,
    file_path,
    manifest_from_json,
    part_from_json,
)
from r2ec.infer.plan import RunPlan, part_name, published_folder, shard_of, shard_prefix
from r2ec.storage import FilePart, Warehouse


class ShardWriter:
    """The parts of one shard of a run.

        writer = ShardWriter(warehouse, plan, shard)
        done = writer.finished_parts()
        num_parts = 0
        for part, histories in shard_parts(iter_histories(...), plan, shard):
            num_parts += 1
            if part not in done:
                ...
                writer.write_part(part, ranked, reasons, device_seconds=…, wall_seconds=…)
        writer.finish(num_parts)

    Raises `R2ecError` when the warehouse cannot be written to, `UsageError` when the shard is none
    of the plan or another plan was staged under the same run id.
    """

    def __init__(self, warehouse: Warehouse, plan: RunPlan, shard: int) -> None:
        if not 0 <= shard < plan.num_shards:
            raise UsageError(f"shard {shard} of {plan.num_shards}: shards count from 0")
        self.warehouse, self.plan, self.shard = warehouse, plan, shard
        warehouse.check_writable()
        if self._has_plan() and warehouse.read_file(*plan.staging, "plan.json") != plan.to_json():
            raise UsageError(
                f"another plan is staged as run {plan.run_id} in "
                f"{warehouse.path(*plan.staging)}: remove that folder and score again"
            )

    def finished_parts(self) -> dict[int, PartRecord]:
        """Parts that need no more work: both files are there with their checksums.

        Call it once, at the start. A part with a damaged file is not among them, and a manifest
        that names one is taken back until `finish`.
        """
        records: dict[int, PartRecord] = {}
        prefix = shard_prefix(self.shard)
        for path in self.warehouse.list_files(*self.plan.staging, "parts", suffix=".json"):
            if path.rsplit("/", 1)[-1].startswith(prefix):
                record = self._intact(path)
                if record is not None:
                    records[record.part] = record
        manifest = self._manifest()
        if manifest is not None and any(part.part not in records for part in manifest.parts):
            self.warehouse.remove_file(*self.plan.staging, self._manifest_name)
        return records

    def is_finished(self) -> bool:
        """Whether the shard's manifest is there; ask after `finished_parts`."""
        return self._manifest() is not None

    def write_part(
        self,
        part: int,
        recommendations: pa.Table,
        reasoning: pa.Table,
        *,
        device_seconds: float,
        wall_seconds: float,
    ) -> PartRecord:
        """Write both tables of a part and its record.

        Rows may come in any order; they are sorted and cast to the schemas of
        `schemas.RECOMMENDATIONS` and `schemas.REASONING`. Raises `ValueError` when a user stands
        there twice, belongs to another shard, has ranks other than 1, 2, 3, …, or has
        recommendations without a row of reasoning or beside `status='error'`.
        """
        finished_at = time.time()
        ranked = _conform(recommendations, schemas.RECOMMENDATIONS, ["user_id", "rank"])
        reasons = _conform(reasoning, schemas.REASONING, ["user_id"])
        check_part(ranked, reasons, self.plan.num_shards, self.shard)
        made = reasons.filter(pc.equal(reasons["status"], "ok"))
        self._stage_plan()
        record = PartRecord(
            part=part,
            num_users=reasons.num_rows,
            num_errors=_count(reasons, "error"),
            num_carried=_count(reasons, "carried"),
            prompt_tokens=pc.sum(made["prompt_tokens"]).as_py() or 0,
            reasoning_tokens=pc.sum(made["reasoning_tokens"]).as_py() or 0,
            device_seconds=device_seconds,
            wall_seconds=wall_seconds,
            finished_at=finished_at,
            recommendations=self._write("recommendations", part, ranked),
            reasoning=self._write("reasoning", part, reasons),
        )
        name = f"{part_name(self.shard, part)}.json"
        self.warehouse.replace_file(record.to_json(), *self.plan.staging, "parts", name)
        return record

    def finish(self, num_parts: int) -> ShardManifest:
        """Write the shard's manifest, once parts 0 … `num_parts` - 1 are there.

        Raises `ValueError` naming the parts that are not.
        """
        records = self.finished_parts()
        missing = sorted(set(range(num_parts)) - set(records))
        if missing:
            raise ValueError(f"shard {self.shard} of run {self.plan.run_id} lacks parts {missing}")
        self._stage_plan()
        parts = tuple(records[part] for part in range(num_parts))
        manifest = ShardManifest(plan=self.plan, shard=self.shard, parts=parts)
        self.warehouse.replace_file(manifest.to_json(), *self.plan.staging, self._manifest_name)
        return manifest

    def _has_plan(self) -> bool:
        return self.warehouse.exists(*self.plan.staging, "plan.json")

    def _stage_plan(self) -> None:
        if not self._has_plan():
            self.warehouse.replace_file(self.plan.to_json(), *self.plan.staging, "plan.json")

    @property
    def _manifest_name(self) -> str:
        return f"shard-{self.shard:05d}.json"

    def _manifest(self) -> ShardManifest | None:
        try:
            data = self.warehouse.read_file(*self.plan.staging, self._manifest_name)
            return manifest_from_json(data)
        except (FileNotFoundError, ValueError):  # a damaged one is written again by `finish`
            return None

    def _write(self, table: str, part: int, rows: pa.Table) -> FilePart:
        path = file_path(table, self.shard, part)
        return replace(self.warehouse.write_parquet(rows, *self.plan.staging, path), path=path)

    def _intact(self, path: str) -> PartRecord | None:
        try:
            record = part_from_json(self.warehouse.read_file(path))
            for file in record.files:
                data = read_part_file(self.warehouse, self.plan, file)
                if hashlib.sha256(data).hexdigest() != file.sha256:
                    return None
        except (FileNotFoundError, ValueError):
            return None
        return record


def read_part_file(warehouse: Warehouse, plan: RunPlan, file: FilePart) -> bytes:
    """A part's file: staged or, after a publishing that was cut off, in place already.

    Raises `FileNotFoundError` when it is at neither.
    """
    table, name = file.path.split("/")
    try:
        return warehouse.read_file(*plan.staging, file.path)
    except FileNotFoundError:
        return warehouse.read_file(*published_folder(table, plan.date, plan.run_id), name)


def check_part(ranked: pa.Table, reasons: pa.Table, num_shards: int, shard: int) -> None:
    """Raise `ValueError` unless the sorted tables are a part of this shard (see `write_part`)."""
    users = reasons["user_id"].to_pylist()
    for before, user in pairwise(users):
        if user <= before:
            raise ValueError(f"user {user!r} stands there twice or out of order")
    unknown = set(reasons["status"].unique().to_pylist()) - set(schemas.STATUSES)
    if unknown:
        raise ValueError(f"status {unknown.pop()!r} is none of {', '.join(schemas.STATUSES)}")
    for user in users:
        if shard_of(user, num_shards) != shard:
            raise ValueError(f"user {user!r} belongs to another shard than {shard}")
    if not ranked.num_rows:
        return
    failed = set(reasons.filter(pc.equal(reasons["status"], "error"))["user_id"].to_pylist())
    names = ranked["user_id"].combine_chunks().dictionary_encode()
    strange = [user for user in names.dictionary.to_pylist() if user in failed] or sorted(
        set(names.dictionary.to_pylist()) - set(users)
    )
    if strange:
        raise ValueError(f"user {strange[0]!r} has recommendations but no reasoning, or an error")
    code, rank = names.indices.to_numpy(), ranked["rank"].to_numpy()
    starts = np.concatenate([[True], code[1:] != code[:-1]])
    first_row = np.maximum.accumulate(np.where(starts, np.arange(len(code)), 0))
    wrong = rank != np.arange(len(code)) - first_row + 1
    if wrong.any() or starts.sum() != len(names.dictionary):
        user = ranked["user_id"][int(wrong.argmax())].as_py()
        raise ValueError(f"the ranks of user {user!r} are not 1, 2, 3, …")


def _count(reasons: pa.Table, status: str) -> int:
    return pc.sum(pc.equal(reasons["status"], status)).as_py() or 0


def _conform(rows: pa.Table, table: schemas.Table, keys: list[str]) -> pa.Table:
    if set(rows.column_names) != set(table.schema.names):
        raise ValueError(f"columns {rows.column_names} are not those of table {table.name}")
    return (
        rows.select(table.schema.names).cast(table.schema).sort_by([(k, "ascending") for k in keys])
    )
