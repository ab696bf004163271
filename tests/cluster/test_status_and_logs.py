"""`r2ec-cli k8s status`, `wait` and `logs`: what a cluster says of a run, as people read it."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from r2ec.cluster.refusals import UnreachableError, describe
from r2ec.errors import NotReadyError
from tests.factories.api_server import ApiServer, PodLog
from tests.factories.cluster_objects import (
    NOW,
    complete,
    condition,
    ended,
    failed,
    job,
    labels,
    pod,
    waiting,
)

K8s = Callable[..., str]


def put(server: ApiServer, namespace: str, *objects: dict) -> None:
    """Create Jobs and pods with their statuses."""
    for item in objects:
        group = "apis/batch/v1" if item["kind"] == "Job" else "api/v1"
        server.create(f"/{group}/namespaces/{namespace}/{item['kind'].lower()}s", item)


def table(output: str) -> list[list[str]]:
    """Rows of the table, cut where two blanks or more stand."""
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in output.splitlines()
    ]


def test_status_shows_indexes_with_exit_codes_and_reasons(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    assert k8s("status") == f"no runs in namespace {namespace}\n"
    counts = {
        "active": 1,
        "succeeded": 2,
        "failed": 3,
        "completedIndexes": "0,1",
        "failedIndexes": "3",
    }
    put(
        server,
        namespace,
        job("may", "score", counts, 8),
        pod("may", "score", "one", ended(0), 1),
        pod("may", "score", "two", ended(137, reason="OOMKilled"), 2),
        pod("may", "score", "three", ended(4, "error: 12 % of the users failed"), 3),
        pod("may", "score", "early", ended(1), 1),
        pod("may", "score", "four", {"phase": "Running"}, 4),
    )
    head, row = table(k8s("status"))
    assert head == [
        "run",
        "job",
        "state",
        "done",
        "running",
        "failed",
        "restarts",
        "age",
        "message",
    ]
    assert row[:6] == ["may", "score", "Running", "2/8", "1", "2: exit 137 (OOMKilled), 3: exit 4"]
    assert row[6] == "3"  # pods that were replaced or given up
    assert row[-1] == "error: 12 % of the users failed"
    assert len(table(k8s("status", "--run", "june"))) == 1


def test_status_says_what_a_run_waits_for(server: ApiServer, namespace: str, k8s: K8s) -> None:
    put(
        server,
        namespace,
        job("a", "embed", {"active": 1}),
        pod("a", "embed", "a-1", waiting("ImagePullBackOff", "no such image")),
        job("b", "publish", {"active": 1}),
        pod("b", "publish", "b-1", ended(3, "error: shards 2, 5 are missing")),
    )
    rows = {row[0]: row for row in table(k8s("status"))}
    assert rows["a"][-1] == "ImagePullBackOff no such image"
    assert rows["b"][5:] == ["exit 3", "1", rows["b"][7], "error: shards 2, 5 are missing"]


def test_status_tells_of_a_drained_node_and_of_pods_that_cannot_be_made(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    drained = ended(143)
    drained["conditions"] = [condition("DisruptionTarget", reason="EvictionByEvictionAPI")]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "why", "namespace": namespace},
        "involvedObject": {"kind": "Job", "name": "r2ec-embed-b", "namespace": namespace},
        "type": "Warning",
        "reason": "FailedCreate",
        "message": 'pods "b" is forbidden: violates PodSecurity "restricted:latest"',
    }
    put(
        server,
        namespace,
        job("a", "train", {"active": 2}, 2),
        pod("a", "train", "a-0", drained, 0),
        job("b", "embed", {}),
    )
    server.create(f"/api/v1/namespaces/{namespace}/events", event)
    rows = {row[0]: row for row in table(k8s("status"))}
    assert rows["a"][5] == "0: exit 143 (EvictionByEvictionAPI)"
    assert rows["b"][2] == "Waiting"
    assert "violates PodSecurity" in rows["b"][-1]


@pytest.mark.parametrize(
    ("codes", "expected"), [((4,), 4), ((4, 4), 4), ((4, 1), 1), ((137,), 1), ((), 1)]
)
def test_wait_ends_with_the_code_that_the_pods_agree_on(
    server: ApiServer, namespace: str, k8s: K8s, codes: tuple[int, ...], expected: int
) -> None:
    pods = [pod("may", "embed", f"p{i}", ended(code), i) for i, code in enumerate(codes)]
    status = {"failed": 1, "conditions": failed("too many failures")}
    put(server, namespace, job("may", "embed", status), *pods)
    output = k8s("wait", "--run", "may", "--interval", "0.1", exit_code=expected)
    assert "too many failures" in output


def test_wait_takes_the_code_that_the_job_names_and_not_those_of_pods_told_to_stop(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    words = (
        "Container r2ec for pod r2ec/p0 failed with exit code 2 matching FailJob rule at index 3"
    )
    put(
        server,
        namespace,
        job("may", "train", {"failed": 1, "conditions": failed(words)}, 2),
        pod("may", "train", "p0", ended(2, "error: no such key"), 0),
        pod("may", "train", "p1", ended(143, "error: stopped"), 1),
        job("june", "score", {"failed": 2, "conditions": failed("no")}, 2),
        pod("june", "score", "q0", ended(75), 0),
        pod("june", "score", "q1", ended(4), 1),
    )
    assert "error: no such key" in k8s("wait", "--run", "may", exit_code=2)
    k8s("wait", "--run", "june", exit_code=4)


def test_pods_of_an_earlier_job_of_the_same_name_are_not_those_of_this_one(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    put(server, namespace, job("may", "embed", {"active": 1}))
    old = pod("may", "embed", "old", ended(137))
    old["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": "r2ec-embed-may",
            "uid": "00000000-0000-4000-8000-000000000001",
        }
    ]
    put(server, namespace, old)
    row = table(k8s("status", "--run", "may"))[1]
    assert row[5:7] == ["-", "0"]


def test_status_says_why_some_pods_of_a_job_are_not_made(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "why", "namespace": namespace},
        "involvedObject": {"kind": "Job", "name": "r2ec-train-may", "namespace": namespace},
        "type": "Warning",
        "reason": "FailedCreate",
        "message": "exceeded quota: pods, requested: pods=1, used: pods=1, limited: pods=1",
    }
    put(
        server,
        namespace,
        job("may", "train", {"active": 1}, 2),
        pod("may", "train", "p0", {"phase": "Running"}, 0),
    )
    server.create(f"/api/v1/namespaces/{namespace}/events", event)
    assert "exceeded quota" in table(k8s("status"))[1][-1]


def test_watch_shows_changes_until_all_has_ended(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    put(server, namespace, job("may", "embed", {"active": 1}))
    place = f"/apis/batch/v1/namespaces/{namespace}/jobs/r2ec-embed-may/status"
    done = {
        "startTime": NOW,
        "active": 0,
        "succeeded": 1,
        "completionTime": "2024-05-31T00:01:00Z",
        "conditions": complete(),
    }

    def end() -> None:
        time.sleep(0.5)
        server.send("PATCH", place, {"status": done}, "application/merge-patch+json")

    ending = threading.Thread(target=end)
    ending.start()
    output = k8s("status", "--watch", "--interval", "0.1")
    ending.join()
    states = [row[2] for row in table(output) if row and row[0] == "may"]
    assert states == ["Running", "Complete"]


def logged(server: ApiServer, name: str, *connections: list[tuple[str, str]]) -> PodLog:
    """Give a pod of the mock a log; a real server has none without a node."""
    if server.rules is None:
        pytest.skip("pods of a real API server without a node have no logs")
    log = PodLog([list(lines) for lines in connections])
    server.rules.logs[name] = log
    return log


def test_logs_come_pod_after_pod_with_their_names(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    for index in (1, 0):
        logged(server, f"pod-{index}", [(NOW, f"shard {index}"), (NOW, "fünf Nutzer")])
        put(server, namespace, pod("may", "score", f"pod-{index}", {"phase": "Running"}, index))
    put(server, namespace, pod("may", "score", "pod-2", waiting("ErrImagePull", "no image"), 2))
    assert k8s("logs", "score", "--run", "may").splitlines() == [
        "pod-0 | shard 0",
        "pod-0 | fünf Nutzer",
        "pod-1 | shard 1",
        "pod-1 | fünf Nutzer",
        "pod-2 | (waiting: ErrImagePull no image)",
    ]
    assert k8s("logs", "score", "--run", "may", "--tail", "1").startswith("pod-0 | fünf Nutzer\n")
    assert k8s("logs", "score", "--run", "may", "--index", "1").startswith("pod-1 | shard 1")
    with pytest.raises(NotReadyError, match="no score pod with index 9"):
        k8s("logs", "score", "--run", "may", "--index", "9")


def test_followed_logs_interleave_and_go_on_after_a_break(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    first, second, third = (f"2024-05-31T00:00:0{i}.000000001Z" for i in range(3))
    broken = logged(
        server,
        "pod-0",
        [(first, "a"), (second, "b"), (second, "c")],
        [(second, "b"), (second, "c"), (second, "d"), (third, "e")],
    )
    logged(server, "pod-1", [(first, "x")])
    put(
        server,
        namespace,
        job("may", "score", {"succeeded": 2, "conditions": complete()}, 2),
        pod("may", "score", "pod-0", {"phase": "Running"}, 0),
        pod("may", "score", "pod-1", {"phase": "Running"}, 1),
    )
    lines = k8s("logs", "score", "--run", "may", "--follow").splitlines()
    assert [line for line in lines if line.startswith("pod-0")] == [
        f"pod-0 | {letter}" for letter in "abcde"
    ]
    assert "pod-1 | x" in lines
    assert len(lines) == 6
    assert "sinceSeconds" not in broken.asked[0]
    assert int(broken.asked[1]["sinceSeconds"]) >= 10


def test_followed_logs_take_in_pods_that_come_later(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    logged(server, "pod-a", [(NOW, "first try")])
    logged(server, "pod-b", [(NOW, "second try")])
    put(
        server,
        namespace,
        job("may", "embed", {"active": 1}),
        pod("may", "embed", "pod-a", {"phase": "Running"}),
    )

    def replace() -> None:
        time.sleep(1)
        put(server, namespace, pod("may", "embed", "pod-b", {"phase": "Running"}))
        time.sleep(2)
        place = f"/apis/batch/v1/namespaces/{namespace}/jobs/r2ec-embed-may/status"
        status = {"status": {"conditions": complete()}}
        server.send("PATCH", place, status, "application/merge-patch+json")

    replacing = threading.Thread(target=replace)
    replacing.start()
    lines = k8s("logs", "embed", "--run", "may", "--follow").splitlines()
    replacing.join()
    assert lines == ["pod-a | first try", "pod-b | second try"]


def first_step(name: str) -> dict:
    """A Spark Job's pod at its first step: its phase is Pending until that is done."""
    at_work = {"initContainerStatuses": [{"name": "catalog", "state": {"running": {}}}]}
    made = pod("may", "spark", name, {"phase": "Pending", **at_work})
    made["spec"]["initContainers"] = [made["spec"]["containers"][0] | {"name": "catalog"}]
    return made


@pytest.mark.parametrize("follow", [False, True])
def test_logs_begin_with_the_first_step_of_a_pod_and_go_on_with_the_next(
    server: ApiServer, namespace: str, k8s: K8s, follow: bool
) -> None:
    logged(server, "pod-0/catalog", [(NOW, "items read")])
    logged(server, "pod-0", [(NOW, "events read")])
    put(server, namespace, first_step("pod-0"))
    put(server, namespace, job("may", "spark", {"succeeded": 1, "conditions": complete()}))
    lines = k8s("logs", "spark", "--run", "may", *(["--follow"] if follow else [])).splitlines()
    wanted = ["pod-0 | items read", "pod-0 | events read"]
    assert lines == (wanted if follow else wanted[:1])


def test_followed_logs_keep_their_order_whatever_the_clock_prints(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    """Fractions of other lengths, a line of the node itself, lines long before a break."""
    words = [("2024-05-31T00:00:00.1Z", "a"), ("2024-05-31T00:00:00.12Z", "b")]
    later = [("2024-05-31T00:00:00.12Z", "b"), ("2024-05-31T02:00:01+02:00", "c")]
    broken = logged(server, "pod-0", [*words, ("failed", "to watch file")], [*words[:1], *later])
    put(
        server,
        namespace,
        job("may", "score", {"succeeded": 1, "conditions": complete()}, 1),
        pod("may", "score", "pod-0", {"phase": "Running"}, 0),
    )
    lines = k8s("logs", "score", "--run", "may", "--follow").splitlines()
    assert lines == [f"pod-0 | {word}" for word in ("a", "b", "failed to watch file", "c")]
    # All since the last line known is asked for, although it was read a moment ago.
    then = datetime(2024, 5, 31, tzinfo=UTC)
    since = int(broken.asked[1]["sinceSeconds"])
    assert abs(since - (datetime.now(UTC) - then).total_seconds()) < 300


def test_a_log_that_breaks_off_is_an_error_where_nothing_takes_it_up(
    server: ApiServer, namespace: str, k8s: K8s
) -> None:
    log = logged(server, "pod-0", [(NOW, "a")], [(NOW, "a"), (NOW, "b")])
    log.breaks_always = True
    put(server, namespace, pod("may", "score", "pod-0", {"phase": "Running"}, 0))
    with pytest.raises(UnreachableError, match="log of pod pod-0 broke off"):
        k8s("logs", "score", "--run", "may")


def test_a_refusal_names_fields_and_leaves_out_pages_of_values() -> None:
    body = (
        '{"message": "long", "details": {"causes": [{"field": "spec.completions", "message": '
        '"Required value: when completion mode is Indexed"}]}}'
    )
    assert describe(body, "Invalid") == (
        "spec.completions: Required value: when completion mode is Indexed"
    )
    assert describe("<html>bad gateway</html>", "Bad Gateway") == "Bad Gateway"
    assert labels("a", "b")["app.kubernetes.io/name"] == "r2ec"
