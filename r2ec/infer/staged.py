"""What lies in staging: runs that are being scored, wait to be published, or were given up."""

from r2ec.errors import NotReadyError
from r2ec.infer.plan import STAGING, run_staging
from r2ec.infer.verify import load_manifests
from r2ec.storage import Warehouse

PLAN = "plan.json"
ABANDONED_SECONDS = 86_400.0


def staged_runs(warehouse: Warehouse, date: str) -> list[str]:
    """Ids of the runs of a date that have any file in staging."""
    return sorted(run for day, run in _files_by_run(warehouse, f"date={date}") if day == date)


def is_begun(warehouse: Warehouse, date: str, run_id: str) -> bool:
    """Whether anything of a staged run was scored: it has more than its plan."""
    files = _files_by_run(warehouse, f"date={date}", f"run_id={run_id}")
    return _has_more_than_its_plan(files.get((date, run_id), []))


def is_complete(warehouse: Warehouse, date: str, run_id: str) -> bool:
    """Whether every shard of a staged run has its manifest."""
    try:
        load_manifests(warehouse, run_staging(date, run_id), date, run_id)
    except NotReadyError:
        return False
    return True


def remove_abandoned(warehouse: Warehouse, *, now: float) -> None:
    """Remove staged runs of any date that a day after their plan have not one part.

    `now` is in seconds since 1970. A scorer that is at such a run all the same writes the plan
    again with its first part.
    """
    for (date, run), files in _files_by_run(warehouse).items():
        if _has_more_than_its_plan(files):
            continue
        written = warehouse.modified_at(files[0])
        if written is not None and now - written > ABANDONED_SECONDS:
            warehouse.remove_dir(*run_staging(date, run))


def _has_more_than_its_plan(files: list[str]) -> bool:
    return any(path.rsplit("/", 1)[-1] != PLAN for path in files)


def _files_by_run(warehouse: Warehouse, *below: str) -> dict[tuple[str, str], list[str]]:
    """(date, run) -> the files of each run staged under the folders `below`."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in warehouse.list_files(*STAGING, *below, suffix=""):
        day, run = path.split("/")[len(STAGING) : len(STAGING) + 2]
        key = day.removeprefix("date="), run.removeprefix("run_id=")
        found.setdefault(key, []).append(path)
    return found
