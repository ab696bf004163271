"""A small Kubernetes API server in this process: it stores what is applied and lists by label.

It knows nothing of scheduling, defaults or admission: those need a real one.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Manifest = dict[str, Any]


@dataclass(slots=True)
class ApiServer:
    """`objects` by path, `logs` by pod, `refusal` (code, message) for every request if set."""

    objects: dict[str, Manifest] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], str]] = field(default_factory=list)
    refusal: tuple[int, str] | None = None

    def add(self, path: str, manifest: Manifest) -> None:
        """Store an object as if it had been applied."""
        manifest["metadata"].setdefault("creationTimestamp", "2024-05-31T00:00:00Z")
        self.objects[path] = manifest

    def answer(
        self, method: str, path: str, query: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        """Status and body of the answer to one request."""
        if self.refusal is not None:
            return self.refusal[0], _failure(self.refusal[1])
        if path.endswith("/log"):
            return 200, self.logs[path.split("/")[-2]].encode()
        if method == "PATCH":
            manifest = json.loads(body)
            if query.get("dryRun") != "All":
                self.add(path, manifest)
            return 200, json.dumps(manifest).encode()
        if method == "DELETE":
            found = self.objects.pop(path, None)
            return (404, _failure("not found")) if found is None else (200, b'{"kind": "Status"}')
        wanted = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
        items = [
            manifest
            for place, manifest in self.objects.items()
            if place.rsplit("/", 1)[0] == path
            and wanted.items() <= manifest["metadata"].get("labels", {}).items()
        ]
        return 200, json.dumps({"kind": "List", "items": items}).encode()


def _failure(message: str) -> bytes:
    return json.dumps({"kind": "Status", "status": "Failure", "message": message}).encode()


@contextmanager
def api_server(folder: Path) -> Iterator[tuple[ApiServer, Path]]:
    """A running server, and a kubeconfig for it in `folder`."""
    state = ApiServer()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            address = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(address.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content_type = self.headers.get("Content-Type", "")
            state.requests.append((self.command, address.path, query, content_type))
            status, answer = state.answer(self.command, address.path, query, body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PATCH = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(_kubeconfig(f"http://127.0.0.1:{server.server_port}")))
    try:
        yield state, kubeconfig
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _kubeconfig(address: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": address}}],
        "users": [{"name": "test", "user": {"token": "a-token"}}],
    }
