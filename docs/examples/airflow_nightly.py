"""Every night with Airflow 3: a day's tables, one task a stage, the shards of scoring side by side.

Copy it to the folder of DAGs. Its workers have `r2ec` installed, with spark-submit on PATH set up
for the cluster, and these variables: R2EC_WAREHOUSE, R2EC_ITEMS, R2EC_INTERACTIONS, R2EC_MODEL and
R2EC_HOME, the clone. What a task says goes to its log. The date is the first day of the run's
interval: the day that is over when the run starts. Backfill:

    airflow backfill create --dag-id r2ec_nightly --from-date 2024-05-01 --to-date 2024-05-07
"""

import os
import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from string import Template

from airflow.sdk import CronDataIntervalTimetable, dag, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

NUM_SHARDS = 4
# A week of purchases after its date judges a list.
JUDGED_AFTER_DAYS = 7
COMMANDS = {
    "catalog": (
        "spark-submit --py-files $R2EC_HOME/dist/r2ec.zip $R2EC_HOME/jobs/build_catalog.py"
        " --items $R2EC_ITEMS --interactions $R2EC_INTERACTIONS --version $DATE"
    ),
    "sequences": (
        "spark-submit --py-files $R2EC_HOME/dist/r2ec.zip $R2EC_HOME/jobs/build_sequences.py"
        " --interactions $R2EC_INTERACTIONS --catalog-version $DATE --date $DATE"
    ),
    "embed": "r2ec-cli embed --model $R2EC_MODEL",
    "score": (
        "r2ec-cli score --model $R2EC_MODEL --date $DATE --num-shards $NUM_SHARDS --shard $SHARD"
        " --no-publish"
    ),
    "publish": "r2ec-cli publish --date $DATE",
    "audit": "r2ec-cli audit",
    "evaluate": "r2ec-cli evaluate --date $JUDGED_DATE --days $JUDGED_AFTER_DAYS",
    "report": "r2ec-cli report --date $DATE --model $R2EC_MODEL --output reports/$DATE.html",
}
# Wrong use and a quality gate do not mend themselves; all else is worth another try: an input that
# is not there yet (3), a task that was told to stop (75), a machine that went away.
FINAL_EXIT_CODES = (2, 4)
NOT_READY = 3


def run(stage: str, day: datetime, **values: int) -> int:
    """The exit code of a stage; when this task is killed, the command is told to stop."""
    variables = {
        "DATE": day.date().isoformat(),
        "JUDGED_DATE": (day - timedelta(days=JUDGED_AFTER_DAYS)).date().isoformat(),
        "JUDGED_AFTER_DAYS": str(JUDGED_AFTER_DAYS),
        "NUM_SHARDS": str(NUM_SHARDS),
        **{name: str(value) for name, value in values.items()},
    }
    quoted = {name: shlex.quote(value) for name, value in {**os.environ, **variables}.items()}
    words = shlex.split(Template(COMMANDS[stage]).substitute(quoted))
    process = subprocess.Popen(words)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait(timeout=120)
        raise


def check(stage: str, code: int) -> None:
    """Raise what makes Airflow try again, or not."""
    if code in FINAL_EXIT_CODES:
        raise AirflowFailException(f"{stage} ended with exit code {code}: see its last line")
    if code:
        raise RuntimeError(f"{stage} ended with exit code {code}: it is tried again")


@dag(
    schedule=CronDataIntervalTimetable("30 0 * * *", timezone="UTC"),
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,  # two builds of one warehouse would wait for each other
    default_args={
        "retries": 12,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=10),
    },
    tags=["r2ec"],
)
def r2ec_nightly() -> None:
    """Catalog and sequences, embeddings, shards, publishing; then what people look at."""

    @task
    def stage(name: str, data_interval_start: datetime | None = None) -> None:
        check(name, run(name, data_interval_start))

    @task
    def score(shard: int, data_interval_start: datetime | None = None) -> None:
        check("score", run("score", data_interval_start, SHARD=shard))

    @task
    def evaluate(data_interval_start: datetime | None = None) -> None:
        code = run("evaluate", data_interval_start)
        if code == NOT_READY:
            raise AirflowSkipException("nothing was published then, or nobody has bought since")
        check("evaluate", code)

    def named(name: str, rule: str = "all_success") -> object:
        return stage.override(task_id=name, trigger_rule=rule)(name)

    catalog, sequences, embed = named("catalog"), named("sequences"), named("embed")
    shards = score.expand(shard=list(range(NUM_SHARDS)))
    publish, audit, report = named("publish"), named("audit"), named("report", "none_failed")
    catalog >> [sequences, embed] >> shards >> publish >> audit >> report
    sequences >> evaluate() >> report


r2ec_nightly()
