"""An S3 server (moto) on loopback in a process of its own, as the object store of a test."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BUCKET = "shop"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def moto_server_program() -> str | None:
    """The `moto_server` program: in `.venv/moto` (its dependencies clash with ours) or on PATH."""
    beside = Path(sys.prefix) / "moto" / "bin" / "moto_server"
    return str(beside) if beside.exists() else shutil.which("moto_server")


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """The environment of a running object store with the bucket `BUCKET`; skips without moto."""
    program = moto_server_program()
    if program is None:
        pytest.skip("no moto_server program in .venv/moto (constraints-moto.txt) or on PATH")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [program, "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _create_bucket(f"{address}/{BUCKET}")
            yield {**KEYS, "AWS_ENDPOINT_URL": address}
        finally:
            server.terminate()


def _create_bucket(address: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            request = urllib.request.Request(address, method="PUT")
            urllib.request.urlopen(request, timeout=5).close()
            return
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
