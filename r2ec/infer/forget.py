"""Deletion of users: their rows leave every table of the warehouse, file by file.

1. what was staged: a run that was being scored cannot be finished with other histories, and goes;
2. histories first, so that no scorer begins with the users; then sequences, quarantine and the
   published lists. Before the files of a partition its row counts, or the pointer's, are lowered.

Each file is replaced whole. Killed anywhere, it goes on when it is started again: what counts say
is either the rows that are there or those that will be.
"""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from r2ec import schemas
from r2ec.errors import NotReadyError
from r2ec.infer.lease import Lease, live_leases
from r2ec.infer.plan import STAGING, published_folder, run_staging
from r2ec.infer.publish import current_run
from r2ec.infer.staged import is_complete
from r2ec.infer.user_rows import FoundRows, UserFilter
from r2ec.lock import JobLock
from r2ec.row_counts import change_row_counts
from r2ec.storage import Warehouse

BUILT_TABLES = ("histories", "sequences", "quarantine")
SCORED_TABLES = ("reasoning", "recommendations")
ETL_STAGING = ("_staging", "etl")
_THREADS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """What is removed of one folder; without a number of rows it is removed whole."""

    place: str
    num_files: int
    num_rows: int | None
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgotten:
    """What was removed (or would be) and the users of whom nothing was found."""

    removals: tuple[Removal, ...]
    unknown_users: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """Rows removed from tables."""
        return sum(removal.num_rows or 0 for removal in self.removals)


def forget_users(
    warehouse: Warehouse, users: Iterable[str], *, is_dry_run: bool = False
) -> Forgotten:
    """Remove all rows of these users from the warehouse; a dry run counts them alone.

    Raises `NotReadyError` while a job or a scorer is at work, when a job was killed while it put
    its tables in place, and when a date with these users is scored but not published yet.
    """
    deletion = _Deletion(warehouse, UserFilter(users), is_dry_run=is_dry_run)
    with ExitStack() as stack:
        if not is_dry_run:
            _hold_off_others(stack, warehouse)
        deletion.remove_staged()
        for table in BUILT_TABLES:
            for folder in _folders(warehouse, table):
                deletion.remove_from_folder(folder)
        for date, run_id in _runs(warehouse):
            deletion.remove_from_run(date, run_id)
        if not is_dry_run:
            _check_no_scorer(warehouse)
    return deletion.result()


class _Deletion:
    """One pass over the warehouse."""

    def __init__(self, warehouse: Warehouse, wanted: UserFilter, *, is_dry_run: bool) -> None:
        self._warehouse, self._wanted, self._is_dry_run = warehouse, wanted, is_dry_run
        self._removals: list[Removal] = []
        self._known: set[str] = set()

    def result(self) -> Forgotten:
        unknown = sorted(self._wanted.users - self._known)
        return Forgotten(removals=tuple(self._removals), unknown_users=tuple(unknown))

    def remove_staged(self) -> None:
        """Leftovers of dead jobs, and runs of the users' dates that can never be finished."""
        for run in self._warehouse.subfolders(*ETL_STAGING):
            folder = (*ETL_STAGING, run)
            if self._warehouse.exists(*folder, "ready.json"):
                job = run.rpartition("-")[0]
                raise NotReadyError(
                    f"{job} was killed while it put its tables in place: run"
                    f" spark-submit jobs/{job}.py again, which finishes it, then this command"
                )
            self._remove_whole(folder, "left by a killed job")
        for date in self._warehouse.subfolders(*STAGING):
            for run in self._warehouse.subfolders(*STAGING, date):
                self._remove_scored(date.removeprefix("date="), run.removeprefix("run_id="))

    def remove_from_folder(self, folder: str) -> None:
        """The users' rows in the files of one folder, and what killed writers left in it."""
        found = self._find(folder)
        self._note(folder, found)
        if self._is_dry_run:
            return
        changes = {_name(file.path): (file.num_rows, file.num_left) for file in found}
        if found:
            change_row_counts(self._warehouse, folder, changes)
        self._rewrite(folder, found)

    def remove_from_run(self, date: str, run_id: str) -> None:
        """The users' rows in both tables of a scored run, and in its row of `runs`."""
        with ExitStack() as stack:
            if not self._is_dry_run:
                what = f"date {date} is being published"
                stack.enter_context(Lease(self._warehouse, f"publish-{date}", what=what))
            folders = {t: "/".join(published_folder(t, date, run_id)) for t in SCORED_TABLES}
            found = {table: self._find(folder) for table, folder in folders.items()}
            for table, folder in folders.items():
                self._note(folder, found[table])
            if self._is_dry_run:
                return
            if any(found.values()):
                self._lower_pointer(date, run_id, found)
            for table, folder in folders.items():
                self._rewrite(folder, found[table])

    def _find(self, folder: str) -> list[FoundRows]:
        """The files of a folder that have rows of the users."""
        files = self._warehouse.list_files(folder)
        with ThreadPoolExecutor(_THREADS) as pool:
            every = list(pool.map(lambda file: self._wanted.find(self._warehouse, file), files))
        found = [file for file in every if file.num_found]
        self._known.update(*(file.users for file in found))
        return found

    def _note(self, folder: str, found: list[FoundRows]) -> None:
        if found:
            num_rows = sum(file.num_found for file in found)
            self._removals.append(Removal(place=folder, num_files=len(found), num_rows=num_rows))
        torn = self._torn(folder)
        if torn:
            self._removals.append(
                Removal(place=folder, num_files=len(torn), num_rows=None, note="half-written")
            )

    def _torn(self, folder: str) -> list[str]:
        return _torn_files(self._warehouse, folder)

    def _rewrite(self, folder: str, found: list[FoundRows]) -> None:
        for path in self._torn(folder):
            self._warehouse.remove_file(path)
        for file in found:
            self._wanted.remove(self._warehouse, file.path)

    def _remove_scored(self, date: str, run_id: str) -> None:
        staging = run_staging(date, run_id)
        found = [*self._find("/".join(staging)), *self._find(f"histories/date={date}")]
        if not found:
            return
        if is_complete(self._warehouse, date, run_id):
            raise NotReadyError(
                f"{date} is scored and not published, with rows of these users: r2ec-cli publish"
                f" --date {date} first, or remove {self._warehouse.path(*staging)}"
            )
        self._remove_whole(staging, "was being scored: score the date again")

    def _remove_whole(self, folder: tuple[str, ...], note: str) -> None:
        num_files = len(self._warehouse.all_files(*folder))
        removal = Removal(place="/".join(folder), num_files=num_files, num_rows=None, note=note)
        self._removals.append(removal)
        if not self._is_dry_run:
            self._warehouse.remove_dir(*folder)

    def _lower_pointer(self, date: str, run_id: str, found: dict[str, list[FoundRows]]) -> None:
        """Set the counts of the run's row of `runs` to what will be left.

        A run that had lost rows keeps its counts, and `publish` goes on telling.
        """
        row = current_run(self._warehouse, date)
        if row is None or row["run_id"] != run_id:
            return
        left = dict(row)
        columns = {"recommendations": "num_recommendations", "reasoning": "num_users"}
        for table, column in columns.items():
            files = self._warehouse.list_files(*published_folder(table, date, run_id))
            before = sum(self._warehouse.count_rows(file) for file in files)
            after = before - sum(file.num_found for file in found[table])
            if row[column] not in (before, after):
                return
            left[column] = after
        statuses = self._statuses_left(published_folder("reasoning", date, run_id))
        left["num_errors"] = statuses.get("error", 0)
        if left["num_carried"] is not None:
            left["num_carried"] = statuses.get("carried", 0)
        rows = pa.Table.from_pylist([left], schema=schemas.RUNS.schema)
        self._warehouse.write_parquet(rows, "runs", f"date={date}", "run.parquet")

    def _statuses_left(self, folder: tuple[str, ...]) -> dict[str, int]:
        """How many rows of everybody else have each status."""
        counts: dict[str, int] = {}
        for path in self._warehouse.list_files(*folder):
            with self._warehouse.filesystem.open_input_file(self._warehouse.path(path)) as stream:
                rows = pq.read_table(stream, columns=["user_id", "status"])
            statuses = rows.filter(self._wanted.excludes(rows["user_id"]))["status"]
            for pair in pc.value_counts(statuses).to_pylist():
                counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]
        return counts


def _hold_off_others(stack: ExitStack, warehouse: Warehouse) -> None:
    """No Spark job and no other deletion begins meanwhile; while a scorer lives, there is none."""
    told = "users are being deleted from this warehouse"
    stack.enter_context(JobLock(warehouse, "forget", told=told))
    for job in ("build_catalog", "build_sequences"):
        stack.enter_context(JobLock(warehouse, job))
    _check_no_scorer(warehouse)


def _check_no_scorer(warehouse: Warehouse) -> None:
    for name, holder in live_leases(warehouse, "score-"):
        age = max(0.0, time.time() - holder.heartbeat)
        raise NotReadyError(
            f"{name} is at work: host {holder.host}, process {holder.pid}, heartbeat {age:.0f} s"
            " ago; it may hold rows of these users. Wait for it, or end it, and run this again"
        )


def _folders(warehouse: Warehouse, table: str) -> list[str]:
    """Folders of a table that have files, hidden ones too."""
    files = [*warehouse.list_files(table), *_torn_files(warehouse, table)]
    return sorted({file.rpartition("/")[0] for file in files})


def _runs(warehouse: Warehouse) -> list[tuple[str, str]]:
    """(date, run) of all folders with scored rows, visible or not."""
    folders = [folder.split("/") for t in SCORED_TABLES for folder in _folders(warehouse, t)]
    pairs = {(parts[1], parts[2]) for parts in folders if len(parts) == 3}
    return [(day.removeprefix("date="), run.removeprefix("run_id=")) for day, run in sorted(pairs)]


def _torn_files(warehouse: Warehouse, folder: str) -> list[str]:
    """What killed writers left: files under a hidden name that nobody will finish."""
    files = warehouse.all_files(folder)
    return [path for path in files if _name(path).startswith(".") and path.endswith(".tmp")]


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]
