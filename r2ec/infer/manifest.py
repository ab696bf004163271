"""What a scoring run wrote: one record a part, one manifest a shard, as JSON beside the files."""

import json
from dataclasses import asdict, dataclass

from r2ec.infer.plan import RunPlan, part_name
from r2ec.storage import FilePart

TABLES = ("recommendations", "reasoning")


@dataclass(frozen=True, kw_only=True, slots=True)
class PartRecord:
    """One finished part: its files, its users, and what it took to make.

    Seconds and the time stand here and not in the Parquet files, whose bytes are the same in every
    run of the plan. Tokens count generated rows only (`status='ok'`), not those carried over.
    `finished_at` is in seconds since 1970.
    """

    part: int
    num_users: int
    num_errors: int
    num_carried: int
    prompt_tokens: int
    reasoning_tokens: int
    device_seconds: float
    wall_seconds: float
    finished_at: float
    recommendations: FilePart
    reasoning: FilePart

    @property
    def files(self) -> tuple[FilePart, FilePart]:
        """Both files; their paths are relative to the run's folder: `<table>/<name>.parquet`."""
        return self.recommendations, self.reasoning

    def to_json(self) -> bytes:
        """The record as it stands in `parts/<name>.json`."""
        return json.dumps(asdict(self), indent=1).encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardManifest:
    """A finished shard: the plan it belongs to and all its parts, from part 0."""

    plan: RunPlan
    shard: int
    parts: tuple[PartRecord, ...]

    def to_json(self) -> bytes:
        """The manifest as it stands in `shard-00003.json`."""
        return json.dumps(asdict(self), indent=1).encode()


def part_from_json(data: bytes) -> PartRecord:
    """Read a part's record; `ValueError` when it is none."""
    return _part(json.loads(data))


def manifest_from_json(data: bytes) -> ShardManifest:
    """Read a shard's manifest; `ValueError` when it is none."""
    fields = json.loads(data)
    try:
        return ShardManifest(
            plan=RunPlan(**fields["plan"]),
            shard=fields["shard"],
            parts=tuple(_part(part) for part in fields["parts"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no shard manifest: {error}") from error


def file_path(table: str, shard: int, part: int) -> str:
    """Path of a part's file, relative to the run's staging folder."""
    return f"{table}/{part_name(shard, part)}.parquet"


def _part(fields: dict[str, object]) -> PartRecord:
    try:
        files = {table: FilePart(**fields.pop(table)) for table in TABLES}  # type: ignore[arg-type]
        return PartRecord(**fields, **files)  # type: ignore[arg-type]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no record of a part: {error}") from error
