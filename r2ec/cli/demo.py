"""`demo`: the whole pipeline in one command, each stage the very command a person would type."""

import csv
import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from r2ec.cli.waiting import wait_for
from r2ec.errors import NotReadyError, R2ecError
from r2ec.logs import format_seconds

REPOSITORY = Path(__file__).resolve().parents[2]
TIME_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}
NUM_SHARDS = 2
MOST_COLUMNS, UNBROKEN = 80, "\u00a0"
MAX_TEST_USERS = 4000  # a fixed draw of a larger test split, so that a large shop ends too


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """Where a shop's logs are, and the name of the mapping that reads them."""

    interactions: Path
    items: Path
    mapping: str


class Stages:
    """Runs commands as stages: a line each on the terminal, their output in `logs/`."""

    def __init__(self, folder: Path, total: int) -> None:
        self.seconds: dict[str, float] = {}
        self._logs = folder / "logs"
        self._total = total
        self._logs.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, *commands: Sequence[str | Path], threads: int | None = None) -> None:
        """Run commands side by side; raises `R2ecError` with the log's end if one fails."""
        place = len(self.seconds) + 1
        title = f"[{place:>2}/{self._total}] {name:<28}"
        start = time.monotonic()
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        running = []
        for number, command in enumerate(commands):
            log = self._logs / f"{place:02d}-{name.replace(' ', '-')}-{number}.log"
            with log.open("wb") as stream:
                process = subprocess.Popen(
                    [str(part) for part in command],
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=REPOSITORY,
                )
            running.append((process, log, command))
        wait_for([process for process, _, _ in running], [log for _, log, _ in running], title)
        for process, log, command in running:
            if process.poll() not in (None, 0):
                for other, _, _ in running:
                    if other.poll() is None:
                        other.terminate()
                click.echo(" failed")
                tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-15:])
                raise R2ecError(
                    f"stage '{name}' ended with exit code {process.returncode}:\n{tail}\n"
                    f"command: {' '.join(str(part) for part in command)}\nwhole log: {log}"
                )
        self.seconds[name] = round(time.monotonic() - start, 1)
        click.echo(f" {self.seconds[name]:7.1f} s")


@click.command(epilog="Example: r2ec-cli demo --demo-dir demo")
@click.option("--demo-dir", default="demo", show_default=True, help="Everything goes here.")
@click.option("--data", metavar="DIR", help="Real logs, Amazon-Reviews-2023 or MovieLens layout.")
@click.option("--events", default=20_000, show_default=True, help="Of the generated shop.")
@click.option("--seed", default=1, show_default=True, help="Of the generated shop.")
@click.option("--config", "config_file", metavar="TOML", help="Training.  [default: in configs/]")
def demo(demo_dir: str, data: str | None, events: int, seed: int, config_file: str | None) -> None:
    """Run the whole pipeline: a shop, Spark jobs, training, scoring, publishing, figures.

    Tables go to DIR/warehouse, the model to DIR/model, figures to DIR/summary.json, a page about
    the published date to DIR/report.html. What an
    earlier demo left in DIR is replaced.
    """
    folder = Path(demo_dir).resolve()
    shop = find_shop(Path(data).resolve()) if data else None
    default = "demo-data.toml" if data else "demo.toml"
    config = Path(config_file).resolve() if config_file else REPOSITORY / "configs" / default
    for name in ("warehouse", "model", "model.run", "base", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    stages = Stages(folder, total=11 if data else 12)
    start = time.monotonic()
    if shop is None:
        made = folder / "shop"
        stages.run("sample shop", _cli("sample-data", "--events", events, "--seed", seed, made))
        shop = find_shop(made)
    date = date_of_share(shop, 0.9)
    click.echo(f"        logs      {near(shop.interactions)}\n        histories {date}")
    run_pipeline(stages, folder, shop, config, date)
    summary = build_summary(stages, folder, date, time.monotonic() - start)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    show_summary(summary, folder, date)


def run_pipeline(stages: Stages, folder: Path, shop: Shop, config: Path, date: str) -> None:
    """Every stage from the Spark jobs to the metrics."""
    warehouse, base, model = folder / "warehouse", folder / "base", folder / "model"
    at = ("--warehouse", warehouse)
    settings = ("spark.log.level=WARN", "spark.ui.enabled=false", "spark.driver.memory=2g")
    job = ["spark-submit", "--master", "local[2]"]
    # A short run: the quick compiler is enough, and saves a third of the time.
    job += ["--driver-java-options", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"]
    job += [part for setting in settings for part in ("--conf", setting)]
    mapping = ("--mapping", shop.mapping, *at)
    catalog_job, sequences_job = (
        REPOSITORY / "jobs" / f"build_{name}.py" for name in ("catalog", "sequences")
    )
    log = ("--interactions", shop.interactions)
    stages.run("build_catalog (Spark)", [*job, catalog_job, "--items", shop.items, *log, *mapping])
    stages.run("build_sequences (Spark)", [*job, sequences_job, *log, "--date", date, *mapping])
    stages.run("base model", _cli("init-model", *at, "--config", config, "--output", base))
    train = ("train", "--config", config, *at, "--base-model", base, "--output", model, "--fresh")
    torchrun = ("torchrun", "--nproc_per_node=2", "--standalone", "-m", "r2ec")
    stages.run("train (2 processes)", [*torchrun, *train], threads=1)
    stages.run("embed", _cli("embed", *at, "--model", model))
    score = ("score", *at, "--date", date, "--model", model, "--num-shards", NUM_SHARDS)
    stages.run(
        f"score ({NUM_SHARDS} shards)",
        *(_cli(*score, "--shard", shard, "--no-publish") for shard in range(NUM_SHARDS)),
        threads=1,
    )
    stages.run("publish", _cli("publish", *at, "--date", date))
    stages.run("audit", _cli("audit", *at))
    evaluate = ("evaluate", *at, "--split", "test", "--max-users", MAX_TEST_USERS, "--name")
    contrastive = Path(f"{model}.run", "contrastive")
    stages.run(
        "evaluate the baselines",
        _cli(*evaluate, "popularity", "--baseline", "popularity"),
        _cli(*evaluate, "untrained", "--model", base, "--config", config),
        threads=1,
    )
    stages.run(
        "evaluate the models",
        _cli(*evaluate, "contrastive", "--model", contrastive, "--reasoning-budget", 0),
        _cli(*evaluate, "recpo", "--model", model),
        threads=1,
    )
    page = ("--model", model, "--output", folder / "report.html")
    stages.run("report", _cli("report", *at, "--date", date, *page))


def find_shop(folder: Path) -> Shop:
    """Find the logs of a folder by the names of their files.

    Raises `NotReadyError` where neither layout is recognised.
    """
    if not folder.is_dir():
        raise NotReadyError(f"--data {folder}: there is no such folder")
    meta = sorted([*folder.glob("meta_*.jsonl"), *folder.glob("meta_*.jsonl.gz")])
    tables = sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz")])
    if len(meta) == 1 and len(tables) == 1:
        return Shop(interactions=tables[0], items=meta[0], mapping="amazon2023")
    by_name = {path.name.split(".")[0]: path for path in tables}
    if {"ratings", "movies"} <= by_name.keys():
        return Shop(interactions=by_name["ratings"], items=by_name["movies"], mapping="movielens")
    raise NotReadyError(
        f"--data {folder}: expected X.csv[.gz] beside meta_X.jsonl[.gz] (Amazon-Reviews-2023), or"
        " ratings.csv[.gz] beside movies.csv[.gz] (MovieLens). Other layouts: run the commands of"
        " the README with --mapping"
    )


def date_of_share(shop: Shop, share: float) -> str:
    """The ISO day before the one at which `share` of the log's events have happened.

    What was bought after it can then be compared with what is recommended.
    """
    mapping = REPOSITORY / "configs" / "mappings" / f"{shop.mapping}.toml"
    columns = tomllib.loads(mapping.read_text("utf-8"))["interactions"]
    unit = TIME_UNITS[columns["time_unit"]]
    times = []
    opener: Any = gzip.open if shop.interactions.suffix == ".gz" else open
    with opener(shop.interactions, "rt", encoding="utf-8", errors="replace", newline="") as stream:
        for row in csv.DictReader(stream):
            text = row.get(columns["time_column"]) or ""
            if text.isdigit() and 0 < int(text) / unit < time.time():
                times.append(int(text) / unit)
    if not times:
        raise NotReadyError(
            f"{shop.interactions}: no event with a time in column {columns['time_column']!r}"
        )
    at = sorted(times)[int(share * (len(times) - 1))]
    return (datetime.fromtimestamp(at, UTC) - timedelta(days=1)).date().isoformat()


def build_summary(stages: Stages, folder: Path, date: str, seconds: float) -> dict[str, Any]:
    """The figures of a demo: seconds by stage, metrics with intervals, counts."""
    from r2ec.storage import Warehouse
    from r2ec.warehouse_views import open_views

    with open_views(Warehouse(str(folder / "warehouse"))) as views:
        metrics = views.execute(
            "SELECT run_id, split, metric, value, ci_low, ci_high, users FROM metrics"
            " ORDER BY run_id, metric"
        ).fetchall()
        counts = {
            name: views.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0]
            for name in ("catalog", "sequences", "histories", "quarantine", "recommendations")
        }
        reasons = views.execute(
            "SELECT finish_reason, count(*) FROM reasoning GROUP BY 1 ORDER BY 2 DESC"
        ).fetchall()
        users = views.execute(
            "SELECT user_id FROM reasoning WHERE status = 'ok' ORDER BY hash(user_id) LIMIT 3"
        ).fetchall()
    names = ("run_id", "split", "metric", "value", "ci_low", "ci_high", "users")
    return {
        "date": date,
        "seconds": round(seconds, 1),
        "stage_seconds": stages.seconds,
        "rows": counts,
        "finish_reasons": dict(reasons),
        "metrics": [dict(zip(names, row, strict=True)) for row in metrics],
        "users_shown": [row[0] for row in users],
    }


def show_summary(summary: dict[str, Any], folder: Path, date: str) -> None:
    """The summary for people: metrics, tables, three users, what to ask next."""
    click.echo(f"\nDone in {format_seconds(summary['seconds'])}.\n")
    say(
        "How far up lists of ten the next purchase stands: test split, full catalog, 95 % "
        "intervals. N@10 is 1 for the first place and less further down, H@10 is 1 anywhere on "
        "the list.\n"
    )
    by_run = {(row["run_id"], row["metric"]): row for row in summary["metrics"]}
    for run in ("popularity", "untrained", "contrastive", "recpo"):
        cells = []
        for metric, name in (("ndcg@10", "N@10"), ("hit_rate@10", "H@10")):
            row = by_run[run, metric]
            cells.append(f"{name} {row['value']:.4f} [{row['ci_low']:.4f}, {row['ci_high']:.4f}]")
        say("   ".join(cell.replace(" ", UNBROKEN) for cell in cells), name=run)
    click.echo("")
    for name in ("rows", "finish_reasons"):
        counts = (f"{of}{UNBROKEN}{count:,}" for of, count in summary[name].items())
        say(", ".join(counts), name="ended by" if name == "finish_reasons" else name)
    for name in ("warehouse", "model", "logs", "report.html"):
        say(near(folder / name), name=name.split(".")[0])
    for user in summary["users_shown"]:
        click.echo("")
        at = ("--warehouse", folder / "warehouse", "--date", date, "--top-k", 5, user)
        subprocess.run([str(part) for part in _cli("show", *at)], check=True)
    click.echo("Ask the tables yourself:\n")
    click.echo(f"  export R2EC_WAREHOUSE={shlex.quote(near(folder / 'warehouse'))}")
    click.echo(f"  r2ec-cli sql catalog_coverage --param date={date}")


def say(text: str, *, name: str = "") -> None:
    """The text after a name, filled to the terminal's width and to 80 columns at most."""
    indent = f"  {name:<12} " if name else ""
    lines = textwrap.wrap(
        text,
        min(shutil.get_terminal_size().columns, MOST_COLUMNS),
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )
    click.echo("\n".join(lines).replace(UNBROKEN, " "))
    if text.endswith("\n"):
        click.echo("")


def near(path: Path) -> str:
    """The path from here, where that is below here; the whole path elsewhere."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _cli(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "r2ec", *(str(argument) for argument in arguments)]
