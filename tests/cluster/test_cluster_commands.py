"""`r2ec-cli k8s` against an API server in this process: each verb, each kind of refusal."""

from collections.abc import Callable, Iterator
from pathlib import Path

import click.testing
import pytest
import yaml

from r2ec.cli.main import load_command
from r2ec.errors import NotReadyError, R2ecError, UsageError
from tests.factories.api_server import ApiServer, Manifest, api_server

JOBS = "/apis/batch/v1/namespaces/r2ec/jobs"
PODS = "/api/v1/namespaces/r2ec/pods"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with api_server(tmp_path) as (state, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield state


def k8s(*arguments: str) -> str:
    """Output of `r2ec-cli k8s …`; errors are raised as they are."""
    result = click.testing.CliRunner().invoke(
        load_command("k8s"), arguments, catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.output


def labels(run: str, kind: str, **more: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "r2ec",
        "app.kubernetes.io/instance": run,
        "app.kubernetes.io/component": kind,
        **more,
    }


def test_setup_and_runs_are_applied_by_the_server_under_our_name(server: ApiServer) -> None:
    output = k8s("submit", "setup")
    assert output.splitlines() == [
        "namespace/r2ec applied",
        "serviceaccount/r2ec applied",
        "persistentvolumeclaim/r2ec-data applied",
        "configmap/r2ec-settings applied",
    ]
    k8s("submit", "score", "--run", "may", "--date", "2024-05-31", "--size", "8")
    k8s("submit", "train", "--run", "may", "--config", "configs/demo.toml")
    assert server.objects[f"{JOBS}/r2ec-score-may"]["spec"]["completions"] == 8
    assert set(server.objects) >= {
        f"{JOBS}/r2ec-train-may",
        "/api/v1/namespaces/r2ec/services/r2ec-train-may",
        "/api/v1/namespaces/r2ec/configmaps/r2ec-train-may-config",
    }
    for method, _, query, content_type in server.requests:
        assert (method, content_type) == ("PATCH", "application/apply-patch+yaml")
        assert query == {"fieldManager": "r2ec-cli"}


def test_a_dry_run_is_the_servers(server: ApiServer) -> None:
    output = k8s("submit", "embed", "--run", "a", "--dry-run")
    assert output == "job/r2ec-embed-a would be applied\n"
    assert server.requests[0][2]["dryRun"] == "All"
    assert server.objects == {}


def test_what_is_rendered_is_what_is_submitted(server: ApiServer) -> None:
    arguments = ("publish", "--run", "a", "--date", "2024-05-31", "--image", "x:1")
    (rendered,) = yaml.safe_load_all(k8s("render", *arguments))
    k8s("submit", *arguments)
    submitted = server.objects[f"{JOBS}/r2ec-publish-a"]
    del submitted["metadata"]["creationTimestamp"]
    assert submitted == rendered


def job(run: str, kind: str, status: Manifest, completions: int | None = None) -> Manifest:
    spec = {} if completions is None else {"completions": completions}
    metadata = {"name": f"r2ec-{kind}-{run}", "labels": labels(run, kind)}
    return {"kind": "Job", "metadata": metadata, "spec": spec, "status": status}


def test_status_shows_what_is_done_running_and_failed_and_why(server: ApiServer) -> None:
    assert k8s("status") == "no runs in namespace r2ec\n"
    failed = {"type": "Failed", "status": "True", "message": "too many failed indexes"}
    counts = {
        "active": 1,
        "succeeded": 5,
        "failed": 2,
        "completedIndexes": "0-4",
        "failedIndexes": "6",
    }
    server.add(f"{JOBS}/a", job("may", "score", {**counts, "conditions": [failed]}, 8))
    later = job("june", "embed", {"active": 1})
    later["metadata"]["creationTimestamp"] = "2024-06-01T00:00:00Z"
    server.add(f"{JOBS}/b", later)
    table = [line.split() for line in k8s("status").splitlines()]
    assert table[1][:7] == ["may", "score", "Failed", "5/8", "1", "2", "(index"]
    assert " ".join(table[1]).endswith("too many failed indexes")
    assert table[2][:5] == ["june", "embed", "Running", "0/1", "1"]
    assert len(k8s("status", "--run", "june").splitlines()) == 2


def pod(run: str, kind: str, index: int, status: Manifest) -> Manifest:
    indexed = {"batch.kubernetes.io/job-completion-index": str(index)}
    metadata = {"name": f"pod-{index}", "labels": {**labels(run, kind), **indexed}}
    return {"kind": "Pod", "metadata": metadata, "status": status}


def test_logs_come_pod_after_pod_with_their_names(server: ApiServer) -> None:
    for index in (1, 0):
        server.add(f"{PODS}/{index}", pod("may", "score", index, {"phase": "Running"}))
        server.logs[f"pod-{index}"] = f"shard {index}\nfünf Nutzer\n"
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    server.add(
        f"{PODS}/2",
        pod("may", "score", 2, {"phase": "Pending", "containerStatuses": [waiting]}),
    )
    assert k8s("logs", "score", "--run", "may").splitlines() == [
        "pod-0 | shard 0",
        "pod-0 | fünf Nutzer",
        "pod-1 | shard 1",
        "pod-1 | fünf Nutzer",
        "pod-2 | (waiting: ImagePullBackOff no such image)",
    ]
    assert k8s("logs", "score", "--run", "may", "--index", "1").startswith("pod-1 | shard 1")
    with pytest.raises(NotReadyError, match="no score pod with index 9"):
        k8s("logs", "score", "--run", "may", "--index", "9")


def test_delete_takes_the_run_and_nothing_else(server: ApiServer) -> None:
    for run in ("may", "june"):
        k8s("submit", "train", "--run", run, "--config", "configs/demo.toml")
    assert k8s("delete", "--run", "may").splitlines() == [
        "job/r2ec-train-may deleted",
        "service/r2ec-train-may deleted",
        "configmap/r2ec-train-may-config deleted",
    ]
    assert [path for path in server.objects if "may" in path] == []
    assert len(server.objects) == 3
    with pytest.raises(NotReadyError, match="nothing of run may"):
        k8s("delete", "--run", "may")


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (401, "log in again"),
        (403, "ask for a role"),
        (404, "setup"),
        (409, "owns"),
        (422, "delete"),
    ],
)
def test_refusals_of_the_server_say_what_to_do(server: ApiServer, code: int, remedy: str) -> None:
    server.refusal = (code, "spec.template: field is immutable")
    calls: tuple[Callable[[], str], ...] = (
        lambda: k8s("submit", "embed", "--run", "a"),
        lambda: k8s("status"),
    )
    for call in calls:
        with pytest.raises(R2ecError, match=rf"field is immutable \({code}\); .*{remedy}"):
            call()


def test_without_a_cluster_the_message_names_the_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for context in ((), ("--context", "shop")):
        with pytest.raises(UsageError, match=r"no cluster: .*none.*set KUBECONFIG"):
            k8s("status", *context)


def test_options_that_a_job_needs_are_asked_for() -> None:
    runner = click.testing.CliRunner()
    for arguments, message in (
        (("render", "score", "--run", "a"), "needs --date"),
        (("render", "embed"), "needs --run"),
    ):
        result = runner.invoke(load_command("k8s"), arguments)
        assert (result.exit_code, message in result.output) == (2, True)
