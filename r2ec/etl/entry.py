"""The border of a job's process: runs it, prints its summary, turns errors into exit codes."""

import re
import sys
from collections.abc import Callable
from typing import Protocol, TypeVar

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from r2ec.errors import R2ecError
from r2ec.etl.explain import executed_plans, plan_of
from r2ec.etl.plan import JobPlan
from r2ec.etl.session import open_session
from r2ec.etl.summary import JobSummary


class Asked(Protocol):
    """What the border itself looks at in a job."""

    @property
    def dry_run(self) -> bool:
        """Whether the job says what it would do, and does nothing."""

    @property
    def explain(self) -> bool:
        """Whether the plans of Spark's queries are printed."""

    @property
    def uses_metastore(self) -> bool:
        """Whether a table of Spark's catalog is read or registered."""


Job = TypeVar("Job", bound=Asked)


def main(
    parse: Callable[[], Job],
    run: Callable[[SparkSession, Job], JobSummary],
    plan: Callable[[SparkSession, Job], JobPlan],
) -> None:
    """Parse the command line, run the job, print what it did; exits 0, 1, 2, 3 or 4.

    With `--dry-run` it prints the plan instead; with `--explain` Spark's plans come first.
    """
    try:
        job = parse()
        name = run.__module__.rsplit(".", 1)[-1].removesuffix("_job")
        spark = open_session(name, with_metastore=job.uses_metastore)
        try:
            if job.dry_run:
                _print_plan(plan(spark, job), is_explained=job.explain)
            else:
                _print_summary(spark, run(spark, job), is_explained=job.explain)
        finally:
            spark.stop()
    except R2ecError as error:
        _exit(str(error), error.exit_code)
    except OSError as error:
        remedy = "check the path, its permissions and the free space"
        _exit(f"{error.filename or ''}: {error.strerror or error}; {remedy}", 1)
    except (PySparkException, Py4JJavaError) as error:
        _exit(f"Spark: {_cause(error)}", 1)


def _print_plan(plan: JobPlan, *, is_explained: bool) -> None:
    if is_explained:
        for source in plan.inputs:
            print(f"== {source.option}\n{plan_of(source.rows)}\n")
    print(plan.text(), flush=True)


def _print_summary(spark: SparkSession, summary: JobSummary, *, is_explained: bool) -> None:
    if is_explained:
        for text in executed_plans(spark):
            print(text)
    if summary.num_rejected:
        print(summary.table())
    for warning in summary.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(summary.line(), flush=True)


def _exit(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def _cause(error: Exception) -> str:
    """The innermost cause that Spark reports, and the file it was reading, in one line."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("Caused by: ")]
    cause = causes[-1].removeprefix("Caused by: ") if causes else lines[0]
    read = re.search(r"error while reading file (\S+?)\.?\s", text)
    if read is None:
        return cause
    return f"{read[1]} cannot be read: {cause}; fetch the file again or leave it out"
