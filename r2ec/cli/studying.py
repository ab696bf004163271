"""`study`: a grid of trainings and baselines, run, compared, and drawn."""

from pathlib import Path

import click

from r2ec.errors import R2ecError


@click.command(
    epilog="Example: r2ec-cli study configs/studies/main_sample.toml --output studies/main_sample"
)
@click.argument("study_file", metavar="TOML")
@click.option("--output", required=True, metavar="DIR", help="Runs, table and picture go here.")
@click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Runs at once."
)
@click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Of each run."
)
@click.option(
    "--only", multiple=True, metavar="ROW", help="Run this row (and its start); repeatable."
)
@click.option("--table-only", is_flag=True, help="Run nothing; write the table of what is done.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and run nothing.")
def study(
    study_file: str,
    output: str,
    jobs: int,
    threads: int,
    only: tuple[str, ...],
    table_only: bool,
    dry_run: bool,
) -> None:
    """Run a study's rows with all seeds and compare them.

    Finished runs are kept, so a study that was stopped goes on. Writes table.parquet, table.md,
    picture.svg and picture.png: values with 95 % intervals over users, differences to the first
    row by a paired bootstrap.
    """
    from r2ec.lock import folder_lock
    from r2ec.study.config import load_study
    from r2ec.study.picture import draw
    from r2ec.study.runs import commands, plan_runs, run_all
    from r2ec.study.table import build_table, write_table

    config = load_study(study_file)
    folder = Path(output)
    runs = plan_runs(config, folder)
    unknown = sorted(set(only) - {run.row.name for run in runs})
    if unknown:
        raise click.UsageError(
            f"--only {unknown[0]!r}: the rows are {', '.join(row.name for row in config.rows)}"
        )
    chosen = [run for run in runs if not only or run.row.name in only]
    starts = {run.start.folder for run in chosen if run.start}
    chosen = [run for run in runs if run in chosen or run.folder in starts]
    if dry_run:
        for run in chosen:
            state = "done" if run.is_done else "to run"
            click.echo(f"{run.folder.name}: {state}")
            for command in [] if run.is_done else commands(config, run):
                click.echo(f"  r2ec-cli {' '.join(command)}")
        return
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    if not table_only:
        lock = folder_lock(
            folder,
            "study",
            told=f"another study is at work in {folder}",
            remedy="wait for it, give another --output, or look on with --table-only",
        )
        with lock:
            failed = run_all(config, chosen, jobs=jobs, threads=threads, report=click.echo)
    lines = build_table(config, runs)
    if lines:
        write_table(lines, config, folder)
        for kind in ("svg", "png"):
            draw(lines, config, folder / f"picture.{kind}")
        click.echo(f"{folder / 'table.md'}, table.parquet, picture.svg, picture.png")
    if failed:
        raise R2ecError(
            f"{len(failed)} of {len(chosen)} runs failed; see their log.txt in {folder}"
        )
