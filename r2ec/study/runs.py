"""The runs of a study: each row with each seed, in processes of their own, kept once they are done.

A run's folder is named after everything that decides its result. A run that ended stays; one that
was killed goes on from its last checkpoint when the study is started again.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2ec.errors import StoppedError
from r2ec.study.config import SEEDED_BASELINES, RowConfig, StudyConfig, overrides


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One row with one seed. `start` is the run whose model it begins with."""

    row: RowConfig
    seed: int
    folder: Path
    start: "Run | None" = None

    @property
    def model(self) -> Path:
        """Model directory of a training."""
        return self.folder / "model"

    @property
    def is_done(self) -> bool:
        """Whether all its ranks are there."""
        return (self.folder / "done.json").exists()

    def ranks(self, split: str, budget: int | None) -> Path:
        """Ranks of a split, with the default or a given number of reasoning tokens."""
        name = split if budget is None else f"{split}-{budget}"
        return self.folder / f"ranks-{name}.parquet"


def plan_runs(study: StudyConfig, output: Path) -> list[Run]:
    """Every row with every seed, in order; where nothing is drawn, the first seed alone."""
    runs: dict[tuple[str, int], Run] = {}
    for row in study.rows:
        fixed = row.untrained or (row.baseline and row.baseline not in SEEDED_BASELINES)
        for seed in study.seeds[:1] if fixed else study.seeds:
            start = runs[row.start, seed] if row.start else None
            decides = {
                "row": row.model_dump(exclude={"name"}),
                "settings": study.settings if row.trains else {},
                "config": Path(study.config).read_text(encoding="utf-8") if row.trains else "",
                "places": [study.warehouse, study.base_model],
                "splits": study.splits,
                "seed": seed,
                "start": start.folder.name if start else "",
            }
            text = json.dumps(decides, sort_keys=True, default=str)
            digest = hashlib.sha256(text.encode()).hexdigest()[:8]
            slug = re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")
            folder = output / "runs" / f"{slug}-seed{seed}-{digest}"
            runs[row.name, seed] = Run(row=row, seed=seed, folder=folder, start=start)
    return list(runs.values())


def run_all(
    study: StudyConfig, runs: list[Run], *, jobs: int, threads: int, report: Callable[[str], None]
) -> list[Run]:
    """Run what is not done, `jobs` at once; returns the runs that failed.

    A run waits for the one it starts from; where that failed it counts as failed too. `report`
    gets a line at the end of each.
    """
    ends: dict[Path, Future[bool]] = {}
    processes = _Processes()

    def work(run: Run) -> bool:
        if run.start is not None and not ends[run.start.folder].result():
            report(f"{run.folder.name}: not run, for {run.start.folder.name} failed")
            return False
        if run.is_done:
            report(f"{run.folder.name}: done before")
            return True
        code = _execute(study, run, threads, processes)
        log = run.folder / "log.txt"
        report(f"{run.folder.name}: {'done' if code == 0 else f'exit code {code}, see {log}'}")
        return code == 0

    # Runs are started in order, so one that another waits for is always ahead of it.
    pool = ThreadPoolExecutor(max_workers=jobs)
    try:
        for run in runs:
            ends[run.folder] = pool.submit(work, run)
        return [run for run in runs if not ends[run.folder].result()]
    except BaseException:
        # Told to stop: so are the runs, which keep a checkpoint and leave; none is begun.
        processes.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def commands(study: StudyConfig, run: Run) -> list[list[str]]:
    """The command lines of a run, without `r2ec-cli`: a training, then the evaluations."""
    row, result = run.row, []
    place = ["--warehouse", study.warehouse]
    if row.trains:
        settings = [*overrides(study, row), f"seed={run.seed}"]
        base = str(run.start.model) if run.start else study.base_model
        train = ["train", "--config", study.config, *place, "--base-model", base]
        train += ["--output", str(run.model), "--resume"]
        result.append([*train, *(part for value in settings for part in ("--set", value))])
        subject = ["--model", str(run.model)]
    elif row.untrained:
        subject = ["--model", study.base_model, "--config", study.config]
    else:
        subject = ["--baseline", str(row.baseline), "--seed", str(run.seed)]
        if row.baseline == "sasrec":
            subject += ["--sasrec-weights", str(run.folder / "sasrec.pt")]
    for split in study.splits:
        for budget in row.budgets or (None,):
            more = [] if budget is None else ["--reasoning-budget", str(budget)]
            name = run.folder.name if budget is None else f"{run.folder.name}-{budget}"
            file = ["--ranks", str(run.ranks(split, budget)), "--name", f"study-{name}"]
            result.append(["evaluate", *place, *subject, "--split", split, *more, *file])
    return result


class _Processes:
    """The processes under way, so that a study that is stopped leaves none behind."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, command: list[str], **where: Any) -> int:
        """Run a command to its end and return its exit code; none is begun after `stop`."""
        with self._lock:
            if self._stopped:
                return StoppedError.exit_code
            process = subprocess.Popen(command, **where)
            self._running.add(process)
        code = process.wait()
        with self._lock:
            self._running.discard(process)
        return code

    def stop(self) -> None:
        """Send SIGTERM to all that run."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def _execute(study: StudyConfig, run: Run, threads: int, processes: _Processes) -> int:
    """Run the commands one after the other, output into `log.txt`; the first exit code not 0."""
    run.folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with (run.folder / "log.txt").open("a", encoding="utf-8") as log:
        for command in commands(study, run):
            log.write(f"$ r2ec-cli {' '.join(command)}\n")
            log.flush()
            code = processes.run(
                [sys.executable, "-m", "r2ec", *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            if code:
                return code
    (run.folder / "done.json").write_text(json.dumps({"seed": run.seed}), encoding="utf-8")
    return 0
