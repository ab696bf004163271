"""`r2ec-cli k8s` against an API server: each verb that writes, and each kind of refusal."""

import urllib.error
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest
import yaml

from r2ec.cli.main import load_command
from r2ec.cluster.refusals import RefusedError, UnreachableError
from r2ec.errors import NotReadyError, UsageError
from tests.factories.api_server import READER, ApiServer
from tests.factories.cluster_objects import complete, failed, job, pod
from tests.factories.commands import cli

K8s = Callable[..., str]


def jobs(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def names(server: ApiServer, path: str) -> set[str]:
    return {item["metadata"]["name"] for item in server.items(path)}


def test_an_empty_cluster_is_set_up_and_set_up_again(
    server: ApiServer, k8s: K8s, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2EC_NAMESPACE", "r2ec-new")
    checked = k8s("submit", "setup", "--dry-run")
    assert "namespace/r2ec-new would be created\n" in checked
    assert "job" not in checked
    with pytest.raises(urllib.error.HTTPError, match="404"):
        server.send("GET", "/api/v1/namespaces/r2ec-new")
    first = k8s("submit", "setup").splitlines()
    assert first[0] == "namespace/r2ec-new created"
    assert "rolebinding/r2ec-driver created" in first
    again = k8s("submit", "setup").splitlines()
    assert [line.split()[0] for line in again] == [line.split()[0] for line in first]
    assert all(line.endswith("applied (was there)") for line in again)
    space = "/api/v1/namespaces/r2ec-new"
    assert "r2ec-data" in names(server, f"{space}/persistentvolumeclaims")
    assert {"r2ec-configs", "r2ec-settings", "r2ec-spark-defaults"} <= names(
        server, f"{space}/configmaps"
    )
    labels = server.send("GET", space)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/r2ec-new/rolebindings/r2ec-driver"
    assert server.send("GET", roles)["subjects"][0]["namespace"] == "r2ec-new"


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--config", "configs/demo.toml", "--size", "3", "--set", "recpo.steps=5"),
        ("embed",),
        ("score", "--date", "2024-05-31", "--size", "8", "--set", "memory=2Gi"),
        ("publish", "--date", "2024-05-31"),
        ("spark", "--date", "2024-05-31"),
        ("nightly",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_is_rendered_is_what_the_server_keeps(
    server: ApiServer, namespace: str, k8s: K8s, arguments: tuple[str, ...]
) -> None:
    command = (*arguments, "--run", "may")
    rendered = list(yaml.safe_load_all(k8s("render", *command)))
    k8s("submit", *command, "--dry-run")
    assert names(server, jobs(namespace)) == set()
    lines = k8s("submit", *command).splitlines()
    assert lines == [f"{it['kind'].lower()}/{it['metadata']['name']} created" for it in rendered]
    plurals = {
        "Job": jobs(namespace),
        "CronJob": f"/apis/batch/v1/namespaces/{namespace}/cronjobs",
        "Service": f"/api/v1/namespaces/{namespace}/services",
        "ConfigMap": f"/api/v1/namespaces/{namespace}/configmaps",
    }
    for manifest in rendered:
        kept = server.send("GET", f"{plurals[manifest['kind']]}/{manifest['metadata']['name']}")
        assert_within(manifest, kept)
    again = k8s("submit", *command).splitlines()
    assert all(line.endswith("applied (was there)") for line in again)


def assert_within(wanted: object, kept: object) -> None:
    """The server keeps all that was asked for, and may add to it."""
    if isinstance(wanted, dict):
        assert isinstance(kept, dict)
        for key, value in wanted.items():
            assert_within(value, kept.get(key))
    elif isinstance(wanted, list):
        assert isinstance(kept, list)
        assert len(wanted) == len(kept)
        for one, other in zip(wanted, kept, strict=True):
            assert_within(one, other)
    elif wanted not in ("", {}, None):
        assert wanted == kept


def test_requests_carry_our_name_and_the_type_of_an_apply(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    if server.rules is None:
        pytest.skip("a real server keeps no list of its requests")
    k8s("submit", "embed", "--run", "a")
    patches = [request for request in server.rules.seen if request.url.path.endswith("embed-a")]
    patches = [request for request in patches if request.method.value == "PATCH"]
    assert [request.params.get("dryRun") for request in patches] == ["All", None]
    for request in patches:
        assert request.params["fieldManager"] == "r2ec-cli"
        assert request.headers["Content-Type"] == "application/apply-patch+yaml"


def test_a_run_with_other_settings_is_refused_until_it_is_to_be_replaced(
    server: ApiServer, namespace: str, k8s: K8s, tmp_path: Path
) -> None:
    config = tmp_path / "demo.toml"
    config.write_text(Path("configs/demo.toml").read_text())
    k8s("submit", "train", "--run", "may", "--config", str(config))
    config.write_text(config.read_text().replace("seed = 1", "seed = 2"))
    with pytest.raises(RefusedError) as refused:
        k8s("submit", "train", "--run", "may", "--config", str(config))
    message = str(refused.value)
    assert refused.value.status == 422
    assert "spec.template" in message
    assert "field is immutable" in message
    assert "--replace" in message
    assert len(message) < 600
    path = f"/api/v1/namespaces/{namespace}/configmaps/r2ec-train-may-config"
    assert "seed = 1" in server.send("GET", path)["data"]["demo.toml"]  # nothing half done
    if server.rules is None:
        return  # without a controller the deleted Job waits for its finalizer
    lines = k8s("submit", "train", "--run", "may", "--config", str(config), "--replace")
    assert lines.splitlines()[0] == "job/r2ec-train-may deleted"
    assert "job/r2ec-train-may created" in lines
    assert "seed = 2" in server.send("GET", path)["data"]["demo.toml"]


def test_a_run_that_would_be_refused_replaces_nothing(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    k8s("submit", "embed", "--run", "a")
    place = f"{jobs(namespace)}/r2ec-embed-a"
    uid = server.send("GET", place)["metadata"]["uid"]
    # No server takes a variable without a name.
    with pytest.raises(RefusedError, match=r"env.*name: Required value"):
        k8s("submit", "embed", "--run", "a", "--replace", "--set", "env.=x")
    assert server.send("GET", place)["metadata"]["uid"] == uid
    assert names(server, jobs(namespace)) == {"r2ec-embed-a"}


def test_a_run_that_kueue_has_let_go_may_be_submitted_again(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    command = ("submit", "embed", "--run", "a", "--set", "queue=shop")
    k8s(*command)
    place = f"{jobs(namespace)}/r2ec-embed-a"
    assert server.send("GET", place)["spec"]["suspend"] is True
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "r2ec-embed-a"}}
    admitted = body | {"spec": {"suspend": False}}
    admit = f"{place}?fieldManager=kueue&force=true"
    server.send("PATCH", admit, admitted, "application/apply-patch+yaml")
    assert k8s(*command) == "job/r2ec-embed-a applied (was there)\n"
    assert server.send("GET", place)["spec"]["suspend"] is False


def test_a_job_that_is_being_deleted_is_not_taken_for_one_that_is_there(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    k8s("submit", "embed", "--run", "a")
    place = f"{jobs(namespace)}/r2ec-embed-a"
    if server.rules is None:  # without a controller it waits for its finalizer
        server.send("DELETE", f"{place}?propagationPolicy=Foreground")
    else:
        kept = server.rules.objects["batch", "jobs", namespace, "r2ec-embed-a"]
        kept["metadata"]["deletionTimestamp"] = "2024-05-31T00:00:00Z"
    with pytest.raises(NotReadyError, match="job/r2ec-embed-a is still being deleted"):
        k8s("submit", "embed", "--run", "a")


def test_a_finished_run_is_not_started_again_by_itself(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    if server.rules is None:
        pytest.skip("only a controller ends a Job that was applied")
    k8s("submit", "embed", "--run", "a")
    server.rules.objects["batch", "jobs", namespace, "r2ec-embed-a"]["status"] = {
        "conditions": complete()
    }
    assert k8s("submit", "embed", "--run", "a") == (
        "job/r2ec-embed-a was there and is Complete: --replace runs it again\n"
    )


def test_a_field_of_another_manager_is_a_conflict_unless_it_is_taken(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    k8s("submit", "embed", "--run", "a")
    place = f"{jobs(namespace)}/r2ec-embed-a?fieldManager=someone&force=true"
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "r2ec-embed-a"},
        "spec": {"activeDeadlineSeconds": 1000},
    }
    server.send("PATCH", place, body, "application/apply-patch+yaml")
    with pytest.raises(RefusedError, match=r"spec.activeDeadlineSeconds: .*someone.*\(409\)"):
        k8s("submit", "embed", "--run", "a")
    k8s("submit", "embed", "--run", "a", "--force-conflicts")
    kept = server.send("GET", f"{jobs(namespace)}/r2ec-embed-a")
    assert kept["spec"]["activeDeadlineSeconds"] == 86400


def test_a_token_that_may_only_look_is_told_so(
    server: ApiServer, namespace: str, k8s: K8s, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path, READER)))
    with pytest.raises(RefusedError, match=r'job/r2ec-embed-a: .*"reader" cannot patch .*a role'):
        k8s("submit", "embed", "--run", "a")
    assert "no runs" in k8s("status")


def test_an_expired_token_is_told_so(
    server: ApiServer, namespace: str, k8s: K8s, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path, "expired")))
    for command in (("submit", "embed", "--run", "a"), ("status",), ("delete", "--run", "a")):
        with pytest.raises(RefusedError, match=r"\(401\).*expired.*log in again"):
            k8s(*command)


def test_a_namespace_that_is_not_there_is_told_so(server: ApiServer, k8s: K8s) -> None:
    with pytest.raises(RefusedError, match=r'namespaces "nowhere" not found.*submit setup'):
        k8s("submit", "embed", "--run", "a", "--namespace", "nowhere")


def test_delete_takes_the_run_and_nothing_else(server: ApiServer, namespace: str, k8s: K8s) -> None:
    for run in ("may", "june"):
        k8s("submit", "train", "--run", run, "--config", "configs/demo.toml")
    k8s("submit", "nightly", "--run", "may")
    deleted = k8s("delete", "--run", "may").splitlines()
    assert set(deleted) >= {
        "cronjob/r2ec-nightly-score-may deleted",
        "job/r2ec-train-may deleted",
        "service/r2ec-train-may deleted",
        "configmap/r2ec-train-may-config deleted",
    }
    assert "r2ec-train-june" in names(server, jobs(namespace))
    assert not any(
        "may" in name for name in names(server, f"/api/v1/namespaces/{namespace}/services")
    )
    with pytest.raises(NotReadyError, match="nothing of run july"):
        k8s("delete", "--run", "july")


def test_delete_takes_the_drivers_of_spark_jobs(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    """Their pods were made by pods of the Job; without them executors would work on."""
    place = f"/api/v1/namespaces/{namespace}/pods"
    k8s("submit", "spark", "--run", "may", "--date", "2024-05-31")
    for run in ("may", "june"):
        driver = pod(run, "spark", f"driver-{run}", {"phase": "Running"})
        driver["metadata"]["labels"]["spark-role"] = "driver"
        server.create(place, driver)
    deleted = k8s("delete", "--run", "may").splitlines()
    assert deleted == ["job/r2ec-spark-may deleted", "pod/driver-may deleted"]
    assert names(server, place) == {"driver-june"}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"succeeded": 1, "completionTime": "2024-05-31T00:01:00Z", "conditions": complete()}, 0),
        ({"failed": 1, "conditions": failed("no")}, 1),
    ],
)
def test_wait_ends_with_the_jobs_end(
    server: ApiServer, namespace: str, k8s: K8s, status: dict[str, object], code: int
) -> None:
    server.create(jobs(namespace), job("may", "embed", status))
    k8s("wait", "--run", "may", "--interval", "0.1", exit_code=code)
    with pytest.raises(NotReadyError, match="no Job to wait for"):
        k8s("wait", "--run", "june")


def test_wait_gives_up_after_its_time(server: ApiServer, namespace: str, k8s: K8s) -> None:
    server.create(jobs(namespace), job("may", "embed", {"active": 1}))
    with pytest.raises(NotReadyError, match=r"not ended after 0.2 s: r2ec-embed-may Running"):
        k8s("wait", "--run", "may", "--interval", "0.1", "--timeout", "0.2")


def test_a_server_that_is_restarted_is_waited_for_and_one_that_is_away_is_told(
    server: ApiServer, namespace: str, k8s: K8s, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server.rules is None:
        pytest.skip("a real server has no trouble on command")
    server.create(jobs(namespace), job("may", "embed", {"conditions": complete()}))
    server.rules.trouble += [503]
    k8s("wait", "--run", "may", "--interval", "0.1")
    server.rules.trouble += [503] * 9
    with pytest.raises(UnreachableError, match=r"try again later \(503\)"):
        k8s("submit", "embed", "--run", "a")
    server.rules.trouble.clear()
    gone = ApiServer("http://127.0.0.1:9")
    monkeypatch.setenv("KUBECONFIG", str(gone.kubeconfig(tmp_path)))
    with pytest.raises(UnreachableError, match="does not answer"):
        k8s("status")


def test_a_proxy_of_the_kubeconfig_is_used(
    server: ApiServer, namespace: str, k8s: K8s, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server.rules is None:
        pytest.skip("the mock is the proxy here")
    away = ApiServer("http://cluster.invalid")
    file = away.kubeconfig(tmp_path, **{"proxy-url": server.address})
    monkeypatch.setenv("KUBECONFIG", str(file))
    assert "no runs" in k8s("status")
    assert server.rules.seen[-1].url.host == "cluster.invalid"


def test_without_a_cluster_the_message_names_the_kubeconfig(
    k8s: K8s, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize("namespace", ["Shop", "my_shop", "-shop", "a.b", "a" * 64, ""])
def test_a_namespace_that_no_cluster_can_have_is_refused(namespace: str) -> None:
    arguments = ("render", "setup", "--namespace", namespace)
    result = click.testing.CliRunner().invoke(load_command("k8s"), arguments)
    assert result.exit_code == 2
    assert repr(namespace) in result.output


def test_pods_get_no_path_that_only_this_machine_knows() -> None:
    arguments = ("embed", "--run", "a")
    runner = click.testing.CliRunner()
    typed = runner.invoke(load_command("k8s"), ("render", *arguments, "--warehouse", "warehouse"))
    assert (typed.exit_code, "'warehouse': pods see no relative path" in typed.output) == (2, True)
    for path in ("s3://shop/ware house/ü", "/data/other"):
        given = runner.invoke(load_command("k8s"), ("render", *arguments, "--warehouse", path))
        assert warehouse_of(given.output) == path


def warehouse_of(rendered: str) -> str | None:
    (job,) = yaml.safe_load_all(rendered)
    (main,) = job["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value") for entry in main["env"]}.get("R2EC_WAREHOUSE")


def test_a_relative_warehouse_of_the_environment_is_told_and_not_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rendered(warehouse: str) -> tuple[str | None, str]:
        monkeypatch.setenv("R2EC_WAREHOUSE", warehouse)
        assert cli("k8s", "render", "embed", "--run", "a") == 0
        shown = capsys.readouterr()
        return warehouse_of(shown.out), shown.err

    taken, told = rendered("warehouse")
    assert taken is None  # the settings of k8s/base say where
    assert "R2EC_WAREHOUSE=warehouse is a path of this machine" in told
    assert rendered("/mnt/warehouse") == ("/mnt/warehouse", "")


def test_a_proxy_of_the_environment_is_used_but_for_the_hosts_left_out(
    server: ApiServer, namespace: str, k8s: K8s, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server.rules is None:
        pytest.skip("the mock is the proxy here")
    away = ApiServer("http://cluster.invalid")
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.setenv("KUBECONFIG", str(away.kubeconfig(tmp_path)))
    assert "no runs" in k8s("status")
    assert server.rules.seen[-1].url.host == "cluster.invalid"
    monkeypatch.setenv("no_proxy", "cluster.invalid")
    monkeypatch.setenv("NO_PROXY", "cluster.invalid")
    with pytest.raises(UnreachableError, match="does not answer"):
        k8s("status")
