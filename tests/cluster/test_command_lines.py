"""Every command line of the manifests is one that its program takes, and ends as clusters need."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from r2ec.cli.main import load_command
from r2ec.cluster.manifests import JOBS, NIGHTLY, load_manifests, pod_templates, setup_manifests
from r2ec.config import load_train_config
from r2ec.errors import StoppedError
from r2ec.etl.arguments import parse_catalog_job, parse_sequences_job
from tests.factories.commands import REPOSITORY

Manifest = dict[str, Any]


def commands() -> list[tuple[str, dict[str, str], list[str]]]:
    """(file and container, its variables, its command with the variables filled in) of all Jobs."""
    (settings,) = (
        item for item in setup_manifests("r2ec") if item["metadata"]["name"] == "r2ec-settings"
    )
    found = []
    for part in (*JOBS, *NIGHTLY):
        for manifest in load_manifests(f"{part}.yaml"):
            for template in pod_templates(manifest):
                pod = template["spec"]
                for container in [*pod.get("initContainers", []), *pod["containers"]]:
                    filled = fill(container, settings["data"])
                    found.append((f"{part}-{container['name']}", *filled))
    return found


def fill(container: Manifest, settings: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """As the kubelet does; what it takes from the pod itself is made up."""
    values = dict(settings)
    for entry in container["env"]:
        made_up = {"JOB_NAME": "r2ec-x"}.get(entry["name"], "0")
        values[entry["name"]] = entry.get("value", made_up)
    command = [
        re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], word)
        for word in container["command"]
    ]
    assert not any("$(" in word for word in command)
    return values, command


@pytest.mark.parametrize(
    ("values", "command"), [pytest.param(*it[1:], id=it[0]) for it in commands()]
)
def test_every_command_line_is_one_that_its_program_takes(
    values: dict[str, str], command: list[str]
) -> None:
    program, name, *arguments = command
    assert program == "r2ec-cli"
    if name == "torchrun":
        from torch.distributed.run import get_args_parser

        parsed = get_args_parser().parse_args(parsed_by(name, arguments)["arguments"])
        assert (parsed.module, parsed.training_script) == (True, "r2ec")
        assert (parsed.node_rank, parsed.max_restarts) == (0, 0)
        assert (parsed.nnodes, parsed.nproc_per_node) == (values["NODES"], values["PROCESSES"])
        name, *arguments = parsed.training_script_args
    if name == "k8s":
        check_spark_command(arguments)
        return
    arguments = [word.replace("/etc/r2ec/", f"{REPOSITORY}/configs/") for word in arguments]
    settings = parsed_by(name, arguments)
    if "config_file" in settings:
        load_train_config(settings["config_file"])


def parsed_by(name: str, arguments: list[str]) -> dict[str, Any]:
    """What a command of r2ec-cli makes of its arguments."""
    entry = load_command(name)
    with click.Context(entry, info_name=name, **entry.context_settings) as context:
        entry.parse_args(context, list(arguments))
        return context.params


def check_spark_command(arguments: list[str]) -> None:
    """`k8s spark-submit` shows the command it would run; the job itself takes what is left."""
    shown = subprocess.run(
        [sys.executable, "-m", "r2ec", "k8s", "spark-submit", "--show", *arguments[1:]],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    ).stdout.split()
    assert shown[0] == "spark-submit"
    (script,) = (word for word in shown if word.startswith("local://"))
    file = REPOSITORY / "jobs" / Path(script).name
    assert script == f"local:///opt/r2ec/jobs/{file.name}"
    assert file.is_file()
    parse = {"build_catalog": parse_catalog_job, "build_sequences": parse_sequences_job}[file.stem]
    parse(shown[shown.index(script) + 1 :])


@pytest.mark.parametrize("name", sorted({it[2][1] for it in commands()} | {"train"}))
def test_every_program_tells_what_it_takes(name: str) -> None:
    helped = [sys.executable, "-m", "r2ec", name, "--help"]
    done = subprocess.run(helped, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert "Usage" in done.stdout


def launch(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "r2ec", "torchrun", "--standalone", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
    )


def test_the_launcher_ends_with_the_code_of_the_rank_that_failed(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    config = tmp_path / "wrong.toml"
    config.write_text("[recpo]\nstepz = 1\n")
    process = launch("-m", "r2ec", "train", "--config", str(config), R2EC_TERMINATION_LOG=str(log))
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 2, output
    assert "stepz" in log.read_text()


def test_the_launcher_passes_the_order_to_stop_on_and_asks_to_be_started_again(
    tmp_path: Path,
) -> None:
    """As a pod that is evicted: the rank gets the signal, and its time to end."""
    script, began, log = tmp_path / "rank.py", tmp_path / "began", tmp_path / "termination-log"
    script.write_text(
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n"
        f"    time.sleep(1); pathlib.Path({str(began)!r}).write_text('saved'); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"pathlib.Path({str(began)!r}).write_text('began')\n"
        "time.sleep(60)\n"
    )
    process = launch("--shutdown-timeout=20", str(script), R2EC_TERMINATION_LOG=str(log))
    end = time.monotonic() + 180
    while not began.exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == StoppedError.exit_code, output
    assert began.read_text() == "saved"
    assert "SIGTERM" in log.read_text()


def test_a_command_that_is_told_to_stop_says_so_to_the_cluster(tmp_path: Path) -> None:
    """Without a handler the first process of a container would not even end."""
    log, pipe = tmp_path / "termination-log", tmp_path / "pipe"
    os.mkfifo(pipe)  # the command waits for what never comes
    process = subprocess.Popen(
        [sys.executable, "-m", "r2ec", "k8s", "render", "embed", "--run", "a", "--from", str(pipe)],
        cwd=REPOSITORY,
        env=os.environ | {"R2EC_TERMINATION_LOG": str(log)},
        stderr=subprocess.DEVNULL,
    )
    with pipe.open("w"):  # it has begun to read
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=180) == StoppedError.exit_code
    assert "run it again" in log.read_text()
