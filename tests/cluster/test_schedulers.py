"""The nightly runs of docs/examples: their commands, codes and names are those of the project."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.factories.command_lines import check_command_line
from tests.factories.commands import REPOSITORY

EXAMPLES = REPOSITORY / "docs" / "examples"
AIRFLOW, ARGO = EXAMPLES / "airflow_nightly.py", EXAMPLES / "argo_nightly.yaml"
BASE = [
    document
    for file in sorted((REPOSITORY / "k8s" / "base").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text("utf-8"))
    if isinstance(document, dict) and "metadata" in document
]
STAGES = ["catalog", "sequences", "embed", "score", "publish", "audit"]


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("R2EC_WAREHOUSE", "warehouse")


def airflow_constants() -> dict[str, Any]:
    """What the DAG's file assigns to names in capitals; Airflow itself is not needed."""
    tree = ast.parse(AIRFLOW.read_text("utf-8"))
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def workflow() -> dict[str, Any]:
    first = next(yaml.safe_load_all(ARGO.read_text("utf-8")))
    spec: dict[str, Any] = first["spec"]["workflowSpec"]
    return spec


def containers() -> dict[str, dict[str, Any]]:
    return {t["name"]: t["container"] for t in workflow()["templates"] if "container" in t}


def exit_codes(action: str) -> set[int]:
    """Exit codes for which the Jobs of k8s/base do this with a pod."""
    return {
        code
        for job in BASE
        if job["kind"] == "Job"
        for rule in job["spec"].get("podFailurePolicy", {}).get("rules", [])
        if rule["action"] == action and "onExitCodes" in rule
        for code in rule["onExitCodes"]["values"]
    }


def test_airflow_types_commands_that_are_taken() -> None:
    constants = airflow_constants()
    assert list(constants["COMMANDS"]) == [*STAGES, "evaluate", "report"]
    for text in constants["COMMANDS"].values():
        line = text.replace("$R2EC_HOME/jobs", "jobs").replace("$NUM_SHARDS", "4")
        check_command_line(re.sub(r"\$SHARD\b", "0", line).replace("$JUDGED_AFTER_DAYS", "7"))


def test_both_give_up_where_the_jobs_do() -> None:
    final = exit_codes("FailJob")
    assert final == {2, 4}
    assert set(airflow_constants()["FINAL_EXIT_CODES"]) == final
    retried = workflow()["templateDefaults"]["retryStrategy"]["expression"]
    assert retried == f"asInt(lastRetry.exitCode) not in {sorted(final)}"


def test_argo_runs_the_stages_in_their_order() -> None:
    (night,) = [t for t in workflow()["templates"] if "dag" in t]
    after = {task["name"]: task.get("dependencies", []) for task in night["dag"]["tasks"]}
    assert after == {
        "catalog": [],
        "sequences": ["catalog"],
        "embed": ["catalog"],
        "score": ["sequences", "embed"],
        "publish": ["score"],
        "audit": ["publish"],
    }
    assert list(containers()) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_container_of_argo_is_that_of_the_cluster(stage: str) -> None:
    container = containers()[stage]
    words = [re.sub(r"\{\{.*?\}\}", "3", word) for word in container["command"]]
    if words[2] == "spark-submit":
        job = next(place for place, word in enumerate(words) if word.startswith("local://"))
        file = words[job].removeprefix("local:///opt/r2ec/")
        words = ["spark-submit", file, *words[job + 1 :]]
    check_command_line(" ".join(words).replace("$(R2EC_DATE)", "2024-05-31"))
    known = {
        variable.partition("=")[0]
        for variable in (REPOSITORY / "k8s" / "base" / "settings.env").read_text().splitlines()
    } | {variable["name"] for variable in container["env"]}
    named = set(re.findall(r"\$\((\w+)\)", " ".join(container["command"])))
    assert named <= known
    base = {
        (c["image"], str(c["securityContext"]))
        for job in BASE
        if job["kind"] == "Job"
        for c in job["spec"]["template"]["spec"]["containers"]
    }
    assert (container["image"], str(container["securityContext"])) in base


def test_argo_names_what_is_in_the_base() -> None:
    names = {(document["kind"], document["metadata"]["name"]) for document in BASE}
    spec = workflow()
    (claim,) = [v["persistentVolumeClaim"] for v in spec["volumes"] if v["name"] == "data"]
    assert ("PersistentVolumeClaim", claim["claimName"]) in names
    assert ("PriorityClass", spec["podPriorityClassName"]) in names
    accounts = {spec["serviceAccountName"]}
    accounts |= {t["serviceAccountName"] for t in spec["templates"] if "serviceAccountName" in t}
    assert {("ServiceAccount", account) for account in accounts} <= names
    (binding,) = [
        document
        for document in yaml.safe_load_all(ARGO.read_text("utf-8"))
        if document["kind"] == "RoleBinding"
    ]
    assert {subject["name"] for subject in binding["subjects"]} == accounts
    base_pod = next(d for d in BASE if d["metadata"]["name"] == "r2ec-publish")["spec"]["template"]
    assert spec["securityContext"] == base_pod["spec"]["securityContext"]
    assert spec["podMetadata"]["labels"].items() <= base_pod["metadata"]["labels"].items()


def test_each_day_ends_before_the_next_midnight() -> None:
    cron = next(yaml.safe_load_all(ARGO.read_text("utf-8")))["spec"]
    minute, hour = map(int, cron["schedules"][0].split()[:2])
    latest = hour * 3600 + minute * 60 + cron["startingDeadlineSeconds"]
    assert latest + workflow()["activeDeadlineSeconds"] < 24 * 3600
    assert Path(ARGO).name in (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
