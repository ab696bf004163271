"""A real Kubernetes API server with etcd, where KUBEBUILDER_ASSETS names a folder with both."""

import os
import shutil
import socket
import subprocess
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.factories.api_server import ADMIN, READER, ApiServer

# The rights of `view`, which itself is empty until a controller, not here, has collected them.
_LOOKS = "system:aggregate-to-view"


def missing_programs() -> str:
    """Why there can be no real API server here; empty where there can be one."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        return "KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd"
    lacking = [name for name in ("kube-apiserver", "etcd") if _program(name) is None]
    return f"{' and '.join(lacking)} not in KUBEBUILDER_ASSETS ({assets})" if lacking else ""


@contextmanager
def real_server(folder: Path) -> Iterator[ApiServer]:
    """The server, with an administrator's token and one that may only look."""
    etcd_port, peer_port, port = _free_port(), _free_port(), _free_port()
    (folder / "tokens.csv").write_text(
        f'{ADMIN},admin,1,"system:masters"\n{READER},reader,2\n', encoding="utf-8"
    )
    key = folder / "accounts.key"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "RSA", "-out", str(key)],
        check=True,
        capture_output=True,
    )
    etcd = [
        str(_program("etcd")),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{etcd_port}",
        f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        "--unsafe-no-fsync",
    ]
    server = [
        str(_program("kube-apiserver")),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",  # or it looks for a way out of this machine
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certs'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        # Without a controller nobody makes the accounts that it asks for.
        "--disable-admission-plugins=ServiceAccount",
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, command in (("etcd", etcd), ("kube-apiserver", server)):
            with (folder / f"{name}.log").open("wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
        found = ApiServer(f"https://127.0.0.1:{port}", folder / "certs" / "apiserver.crt")
        _await_ready(found, folder / "kube-apiserver.log")
        _let_reader_look(found)
        yield found
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)


def _await_ready(server: ApiServer, log: Path) -> None:
    end = time.monotonic() + 90
    while True:
        try:
            server.send("GET", f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{_LOOKS}")
            return
        except (OSError, urllib.error.URLError) as error:
            if time.monotonic() > end:
                raise TimeoutError(log.read_text(errors="replace")[-4000:]) from error
            time.sleep(0.5)


def _let_reader_look(server: ApiServer) -> None:
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": _LOOKS},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader"}],
    }
    server.send("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)


def _program(name: str) -> str | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    return shutil.which(name, path=assets) or shutil.which(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
