"""API servers for the tests of this folder, and the command `r2ec-cli k8s` on them."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import click.testing
import pytest

from r2ec.cli.main import load_command
from tests.factories.api_server import ApiServer, mock_server
from tests.factories.real_api_server import missing_programs, real_server


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One real API server for all tests; skips where there can be none."""
    if missing_programs():
        pytest.skip(missing_programs())
    with real_server(tmp_path_factory.mktemp("api-server")) as server:
        yield server


@pytest.fixture(params=["mock", "real"])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ApiServer]:
    """A server, and an administrator's kubeconfig for it in KUBECONFIG."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if request.param == "real":
        found: ApiServer = request.getfixturevalue("real")
        monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig(tmp_path)))
        yield found
        return
    with mock_server() as found:
        monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig(tmp_path)))
        yield found


@pytest.fixture
def namespace(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A namespace of the test's own, which the commands then mean; it passes `restricted`."""
    name = f"r2ec-{uuid.uuid4().hex[:8]}"
    levels = {"pod-security.kubernetes.io/enforce": "restricted"}
    manifest = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": levels},
    }
    place = f"/api/v1/namespaces/{name}?fieldManager=tests"
    server.send("PATCH", place, manifest, "application/apply-patch+yaml")
    monkeypatch.setenv("R2EC_NAMESPACE", name)
    return name


@pytest.fixture
def k8s() -> Callable[..., str]:
    """Runs `r2ec-cli k8s …` and returns its output; errors are raised as they are."""

    def invoke(*arguments: str, exit_code: int = 0) -> str:
        result = click.testing.CliRunner().invoke(
            load_command("k8s"), arguments, catch_exceptions=False, standalone_mode=False
        )
        returned = result.return_value if isinstance(result.return_value, int) else 0
        assert returned == exit_code, result.output
        return result.output

    return invoke
