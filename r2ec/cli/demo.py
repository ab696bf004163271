"""`demo`: the whole pipeline in one command, each stage the very command a person would type."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from r2ec.cli.demo_shop import Shop, date_of_share, find_shop
from r2ec.cli.demo_summary import build_summary, near, show_summary
from r2ec.cli.waiting import wait_for
from r2ec.errors import R2ecError

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_SHARDS = 2
MAX_TEST_USERS = 4000  # a fixed draw of a larger test split, so that a large shop ends too


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
    the published date to DIR/report.html. What an earlier demo left in DIR is replaced.
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
    summary = build_summary(folder, date, stages.seconds, time.monotonic() - start)
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


def _cli(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "r2ec", *(str(argument) for argument in arguments)]
