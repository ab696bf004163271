"""Publishing: a scored date becomes visible in one act, or not at all.

1. check the staged run (`verify.py`);
2. move its files into `recommendations/` and `reasoning/`, where no reader looks at them yet;
3. replace `runs/date=D/run.parquet`, atomically: this is the act;
4. remove the staging, then what older runs of the date left.

What was staged and given up before its first part is removed a day later.

Killed anywhere, it goes on when it is started again. Readers join with `runs`, so before 3 they
see the run before, or none, and after it this one.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from r2ec import schemas
from r2ec.errors import NotReadyError, UsageError
from r2ec.infer.lease import Lease
from r2ec.infer.manifest import TABLES, PartRecord, ShardManifest
from r2ec.infer.plan import published_folder, run_staging
from r2ec.infer.staged import is_begun, is_complete, remove_abandoned, staged_runs
from r2ec.infer.verify import DamagedRunError, load_manifests, verify_run
from r2ec.storage import Warehouse


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What a date shows now: its row of `runs`; `was_already` when there was nothing to do."""

    run_id: str
    num_users: int
    num_errors: int
    num_recommendations: int
    was_already: bool


def publish(
    warehouse: Warehouse,
    date: str,
    run_id: str | None = None,
    *,
    price_per_hour: float | None = None,
) -> Published:
    """Publish the staged run of a date; with several complete ones, `run_id` says which.

    `price_per_hour` of one device gives `cost_per_1000_users` in `runs`. Raises `NotReadyError`
    when nothing, or not every shard, is scored; `DamagedRunError` when the staged files are not
    what was scored; `UsageError` for an unknown or ambiguous run; `R2ecError` for a warehouse that
    cannot be written to; `LeaseHeldError` while another publisher is at the date.
    """
    _check_date(date)
    if not (warehouse.is_s3 or warehouse.exists("_staging") or warehouse.exists("runs")):
        raise _nothing_scored(warehouse, date)  # a mistyped folder is not made
    warehouse.check_writable()
    with Lease(warehouse, f"publish-{date}", what=f"date {date} is being published"):
        remove_abandoned(warehouse, now=time.time())
        visible = current_run(warehouse, date)
        is_whole = visible is not None and _is_whole(warehouse, date, visible)
        if visible is not None and is_whole:  # what a publishing that was cut off left
            warehouse.remove_dir(*run_staging(date, str(visible["run_id"])))
        staged = staged_runs(warehouse, date)
        chosen = _choose(warehouse, date, run_id, staged, visible)
        if visible is not None and visible["run_id"] == chosen:
            if is_whole:
                _remove_older(warehouse, date)
                return _published(visible, was_already=True)
            if chosen not in staged:
                raise DamagedRunError(
                    f"the published run {chosen} of {date} has lost rows: "
                    f"r2ec-cli score --date {date} and publish again"
                )
        manifests = load_manifests(warehouse, run_staging(date, chosen), date, chosen)
        verify_run(warehouse, manifests)
        _move_into_place(warehouse, manifests)
        row = run_row(manifests, price_per_hour=price_per_hour, published_at=datetime.now(UTC))
        rows = pa.Table.from_pylist([row], schema=schemas.RUNS.schema)
        warehouse.write_parquet(rows, "runs", f"date={date}", "run.parquet")
        warehouse.remove_dir(*run_staging(date, chosen))
        _remove_older(warehouse, date)
        return _published(row, was_already=False)


def current_run(warehouse: Warehouse, date: str) -> dict[str, object] | None:
    """The row of `runs` of a date, or None when nothing of it is published."""
    if not warehouse.exists("runs", f"date={date}", "run.parquet"):
        return None
    row: dict[str, object] = warehouse.read_table(schemas.RUNS, date=date).to_pylist()[0]
    return row


def is_published(warehouse: Warehouse, date: str, run_id: str) -> bool:
    """Whether readers see this run of the date, with all its rows: nothing is left to score."""
    visible = current_run(warehouse, date)
    if visible is None or visible["run_id"] != run_id:
        return False
    return _is_whole(warehouse, date, visible)


def run_row(
    manifests: list[ShardManifest], *, price_per_hour: float | None, published_at: datetime
) -> dict[str, object]:
    """The run's row of `runs`: totals over all parts, and what it cost.

    Wall seconds are those in which at least one shard was at work, device seconds the sum of those
    in which a device was held for a part. Tokens are those that this run put through the model.
    """
    parts = [part for manifest in manifests for part in manifest.parts]
    plan = manifests[0].plan
    num_users = sum(part.num_users for part in parts)
    device_seconds = sum(part.device_seconds for part in parts)
    wall_seconds = covered_seconds(parts)
    cost = None
    if price_per_hour is not None and num_users:
        cost = device_seconds / 3600 * price_per_hour / num_users * 1000
    return {
        "run_id": plan.run_id,
        "model": plan.model,
        "catalog_version": plan.catalog_version,
        "num_shards": plan.num_shards,
        "num_users": num_users,
        "num_errors": sum(part.num_errors for part in parts),
        "num_recommendations": sum(part.recommendations.num_rows for part in parts),
        "prompt_tokens": sum(part.prompt_tokens for part in parts),
        "reasoning_tokens": sum(part.reasoning_tokens for part in parts),
        "wall_seconds": wall_seconds,
        "device_seconds": device_seconds,
        "price_per_hour": price_per_hour,
        "cost_per_1000_users": cost,
        "published_at": published_at,
        "num_carried": sum(part.num_carried for part in parts),
        "users_per_second": num_users / wall_seconds if wall_seconds else None,
        "catalog_fingerprint": plan.catalog_fingerprint,
        "settings": plan.settings,
    }


def covered_seconds(parts: list[PartRecord]) -> float:
    """Length of the union of the parts' times: parallel shards count once, pauses not at all."""
    spans = sorted((part.finished_at - part.wall_seconds, part.finished_at) for part in parts)
    total, until = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _nothing_scored(warehouse: Warehouse, date: str) -> NotReadyError:
    return NotReadyError(
        f"nothing is scored for {date} in {warehouse.root}: r2ec-cli score --date {date}"
    )


def _choose(
    warehouse: Warehouse,
    date: str,
    run_id: str | None,
    staged: list[str],
    visible: dict[str, object] | None,
) -> str:
    """The run to publish: the one named, the only complete one, or one that is being scored (to
    say what it lacks), or the visible one where nothing of another was scored."""
    shown = None if visible is None else str(visible["run_id"])
    if run_id is not None:
        if run_id not in staged and run_id != shown:
            there = ", ".join(staged) or "none"
            raise UsageError(f"run {run_id!r} of {date} is not staged (staged: {there})")
        return run_id
    complete = [run for run in staged if is_complete(warehouse, date, run)]
    if len(complete) > 1:
        raise UsageError(
            f"{len(complete)} runs of {date} are complete: say which by --run-id: "
            f"{', '.join(complete)}"
        )
    if complete:
        return complete[0]
    begun = [run for run in staged if is_begun(warehouse, date, run)]
    if shown is None:
        begun = begun or staged
    if begun:  # says which shards are missing
        return begun[0]
    if shown is None:
        raise _nothing_scored(warehouse, date)
    return shown


def _is_whole(warehouse: Warehouse, date: str, row: dict[str, object]) -> bool:
    """Whether the visible run still has as many rows as its row of `runs` says."""
    for table, column in zip(TABLES, ("num_recommendations", "num_users"), strict=True):
        files = warehouse.list_files(*published_folder(table, date, str(row["run_id"])))
        if sum(warehouse.count_rows(file) for file in files) != row[column]:
            return False
    return True


def _move_into_place(warehouse: Warehouse, manifests: list[ShardManifest]) -> None:
    """Move the files of the manifests, and only those, to where the pointer will show them."""
    plan = manifests[0].plan
    named = {file.path for manifest in manifests for part in manifest.parts for file in part.files}
    for table in TABLES:
        for folder in ((*plan.staging, table), published_folder(table, plan.date, plan.run_id)):
            for path in warehouse.list_files(*folder, suffix=""):
                if f"{table}/{path.rsplit('/', 1)[-1]}" not in named:
                    warehouse.remove_file(path)
        warehouse.move_dir((*plan.staging, table), published_folder(table, plan.date, plan.run_id))


def _remove_older(warehouse: Warehouse, date: str) -> None:
    """Remove the rows of runs that the pointer does not name and nobody is publishing.

    The order of the three looks matters: a run that another publisher makes visible in between is
    either still staged at the first or named by the pointer at the last.
    """
    in_flight = staged_runs(warehouse, date)
    found = {
        (table, run) for table in TABLES for run in warehouse.partitions(table, "run_id", date=date)
    }
    visible = current_run(warehouse, date)
    shown = None if visible is None else visible["run_id"]
    for table, run in sorted(found):
        if run != shown and run not in in_flight:
            warehouse.remove_dir(table, f"date={date}", f"run_id={run}")


def _published(row: dict[str, object], *, was_already: bool) -> Published:
    counts = {name: row[name] for name in ("num_users", "num_errors", "num_recommendations")}
    return Published(run_id=str(row["run_id"]), was_already=was_already, **counts)  # type: ignore[arg-type]


def _check_date(date: str) -> None:
    try:
        if datetime.strptime(date, "%Y-%m-%d").strftime("%Y-%m-%d") == date:
            return
    except ValueError:
        pass
    raise UsageError(f"date {date!r} is no ISO day such as 2024-01-31")
