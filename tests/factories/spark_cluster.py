"""A Spark standalone cluster on loopback: a master and some workers, each a process of its own."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyspark

HOST = "127.0.0.1"
_START_SECONDS = 90


@dataclass(frozen=True, kw_only=True, slots=True)
class SparkCluster:
    """The master's address, and the processes of the workers."""

    url: str
    worker_pids: tuple[int, ...]

    def executor_pids(self) -> list[int]:
        """Processes of the executors that run now: children of the workers."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                command = (entry / "cmdline").read_bytes()
            except (OSError, IndexError):
                continue
            if parent in self.worker_pids and b"CoarseGrainedExecutorBackend" in command:
                found.append(int(entry.name))
        return found


@contextmanager
def spark_cluster(folder: Path, *, workers: int = 2, memory: str = "1g") -> Iterator[SparkCluster]:
    """Start a master and its workers (one core each); all end with the context."""
    home = Path(pyspark.__file__).parent
    env = {name: os.environ[name] for name in ("PATH", "JAVA_HOME", "HOME") if name in os.environ}
    env |= {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": HOST, "SPARK_DAEMON_MEMORY": "256m"}
    port, page = _free_port(), _free_port()
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: object) -> subprocess.Popen[bytes]:
        command = [home / "bin" / "spark-class", f"org.apache.spark.deploy.{name}", *arguments]
        with (folder / f"{len(started)}.log").open("wb") as log:
            process = subprocess.Popen(list(map(str, command)), env=env, stdout=log, stderr=log)
        started.append(process)
        return process

    try:
        start("master.Master", "--host", HOST, "--port", port, "--webui-port", page)
        _wait(lambda: _num_alive(page) == 0, folder)
        url = f"spark://{HOST}:{port}"
        for number in range(workers):
            place = folder / f"worker-{number}"
            limits = ("--cores", 1, "--memory", memory, "--work-dir", place)
            start("worker.Worker", "--host", HOST, "--webui-port", _free_port(), *limits, url)
        _wait(lambda: _num_alive(page) == workers, folder)
        yield SparkCluster(url=url, worker_pids=tuple(process.pid for process in started[1:]))
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _num_alive(page: int) -> int:
    """Workers that the master counts as alive; -1 when it does not answer yet."""

    try:
        with urllib.request.urlopen(f"http://{HOST}:{page}/json/", timeout=5) as answer:
            return int(json.load(answer)["aliveworkers"])
    except OSError:
        return -1


def _wait(is_ready: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_ready():
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
            raise TimeoutError(f"the Spark cluster does not start:\n{logs}")
        time.sleep(0.2)
