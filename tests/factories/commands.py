"""Commands as people run them: in this process, or in one of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from r2ec.cli.main import run

REPOSITORY = Path(__file__).resolve().parents[2]


def cli(*arguments: object) -> int:
    """Exit code of `r2ec-cli` with these arguments, in this process."""
    return run([str(argument) for argument in arguments])


def start(*arguments: object, processes: int = 1) -> "subprocess.Popen[str]":
    """Start `r2ec-cli` in a process of its own, under torchrun where several are asked for."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    return subprocess.Popen(
        [*launcher, "-m", "r2ec", *(str(argument) for argument in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=REPOSITORY,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    """Ours, without the rendezvous that a process group within the tests has left in it."""
    ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {k: v for k, v in os.environ.items() if k not in ours} | {"OMP_NUM_THREADS": "1"}


def finish(process: "subprocess.Popen[str]") -> str:
    """Wait for a process that must succeed; returns what it printed."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-4000:]
    return output


def metric_lines(run_dir: Path) -> list[dict[str, Any]]:
    """The JSON lines of a training run."""
    text = (run_dir / "metrics.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]
