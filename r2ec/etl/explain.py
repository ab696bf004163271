"""Spark's plans for people: of what a session has run, and of rows that were not read yet."""

from collections.abc import Iterator
from typing import Any

from pyspark.sql import DataFrame, SparkSession

_DRAIN_MILLISECONDS = 10_000


def executed_plans(spark: SparkSession) -> Iterator[str]:
    """The physical plan, as it was at the end, of each query that the session ran, in order.

    Spark keeps the last thousand (`spark.sql.ui.retainedExecutions`).
    """
    session: Any = spark._jsparkSession
    context: Any = spark.sparkContext._jsc.sc()
    # What has ended is told to the store of plans by a queue of events.
    context.listenerBus().waitUntilEmpty(_DRAIN_MILLISECONDS)
    executions = session.sharedState().statusStore().executionsList()
    for number in range(executions.size()):
        execution = executions.apply(number)
        ended = execution.completionTime()
        spent = ""
        if ended.isDefined():
            spent = f", {(ended.get().getTime() - execution.submissionTime()) / 1000:.1f} s"
        title = f"query {number + 1} of {executions.size()}: {execution.description()}{spent}"
        yield f"== {title}\n{execution.physicalPlanDescription().strip()}\n"


def plan_of(rows: DataFrame) -> str:
    """The physical plan of rows that were not read yet; starts no Spark job."""
    execution: Any = rows._jdf.queryExecution()
    jvm: Any = rows.sparkSession.sparkContext._jvm
    mode = jvm.org.apache.spark.sql.execution.ExplainMode.fromString("formatted")
    return str(execution.explainString(mode)).strip()
