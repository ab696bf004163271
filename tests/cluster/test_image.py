"""k8s/Dockerfile: pinned and without rights; its install steps run and its entry points start."""

import subprocess
import sys
from pathlib import Path

import pytest

from r2ec.cluster.manifests import JOBS, load_manifests
from tests.cluster.test_manifests import containers
from tests.factories.image import (
    DOCKERFILE,
    OF_THE_SYSTEM,
    REPOSITORY,
    build,
    in_image,
    is_ignored,
    read_stages,
)

TARGETS = ("train", "score", "spark")


def commands_of(target: str) -> set[str]:
    """The subcommands of r2ec-cli that manifests run in an image."""
    found = set()
    for kind in JOBS:
        for manifest in load_manifests(f"{kind}.yaml"):
            if manifest["kind"] == "Job":
                for container in containers(manifest):
                    if container["image"].startswith(f"r2ec/{target}:"):
                        found.add(container["command"][1])
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_images_are_pinned_and_end_as_a_user_without_rights(target: str) -> None:
    stages = read_stages()
    steps = stages[target].steps
    users = [rest for word, rest in steps if word == "USER"]
    assert users[-1] == "10001:10001"
    uid = load_manifests("train.yaml")[1]["spec"]["template"]["spec"]["securityContext"]
    assert users[-1] == f"{uid['runAsUser']}:{uid['runAsGroup']}"
    image = next(stage.base for stage in stages.values() if stage.base not in stages)
    assert image.partition(":")[2].count(".") == 2  # python:3.11.13-…
    for word, rest in (step for stage in stages.values() for step in stage.steps):
        if word == "RUN" and "pip install" in rest:
            assert "--constraint /src/constraints.txt" in rest
    assert "ADD " not in DOCKERFILE.read_text()
    assert commands_of(target)


def test_every_step_is_run_by_the_test_or_is_of_the_system() -> None:
    for stage in read_stages().values():
        for word, rest in stage.steps:
            assert word in ("COPY", "RUN", "ENV", "WORKDIR", "USER", "ENTRYPOINT", "CMD")
            if word == "RUN":
                assert rest.startswith((*OF_THE_SYSTEM, "python -m ", "/opt/venv/bin/pip install"))


def test_nothing_else_of_the_repository_reaches_the_builder() -> None:
    for path in (".git", ".venv", "demo", "tests", "dist", "r2ec/__pycache__", "k8s/x.pyc"):
        assert is_ignored(path), path
    for path in ("r2ec/cli", "pyproject.toml", "k8s/base", "jobs"):
        assert not is_ignored(path), path


def test_the_entry_of_the_spark_image_starts_driver_and_executor(tmp_path: Path) -> None:
    entry = str(REPOSITORY / "k8s/spark-entrypoint.sh")
    root = tmp_path
    # The tests' own environment stands for the image's, whatever the PATH they were started with.
    (root / "opt").mkdir()
    (root / "opt/venv").symlink_to(Path(sys.executable).parent.parent)
    driver = in_image(
        root,
        entry,
        "driver",
        "--class",
        "org.apache.spark.deploy.PythonRunner",
        f"local://{REPOSITORY}/jobs/build_catalog.py",
        "--items=x",
        SPARK_DRIVER_BIND_ADDRESS="127.0.0.1",
        PYTHONPATH=str(REPOSITORY),
    )
    assert driver.returncode == 2, driver.stderr  # the code of the job itself
    assert "without --interactions" in driver.stdout + driver.stderr
    executor = in_image(
        root,
        entry,
        "executor",
        SPARK_JAVA_OPT_0="-Dspark.rpc.askTimeout=1s",
        SPARK_JAVA_OPT_1="-Dspark.network.timeout=2s",
        SPARK_DRIVER_URL="spark://CoarseGrainedScheduler@127.0.0.1:9",
        SPARK_EXECUTOR_ID="1",
        SPARK_EXECUTOR_CORES="1",
        SPARK_EXECUTOR_MEMORY="256m",
        SPARK_APPLICATION_ID="app",
        SPARK_EXECUTOR_POD_IP="127.0.0.1",
        SPARK_EXECUTOR_POD_NAME="executor-1",
    )
    assert executor.returncode != 0
    assert "127.0.0.1:9" in executor.stderr + executor.stdout  # it went as far as the driver
    assert in_image(root, entry, "echo", "as it stands").stdout == "as it stands\n"


@pytest.mark.slow
@pytest.mark.parametrize("targets", [("score", "train"), ("spark",)])
def test_the_install_steps_run_and_each_entry_point_starts(
    targets: tuple[str, ...], tmp_path: Path
) -> None:
    """Training's packages are added to those of scoring, so these two are looked at in turn."""
    built: set[str] = set()
    for target in targets:
        build(read_stages(), target, tmp_path, built)
        check_image(target, tmp_path)


def check_image(target: str, root: Path) -> None:
    for command in sorted(commands_of(target)):
        done = in_image(root, "r2ec-cli", command, "--help")
        assert done.returncode == 0, done.stderr
    for command, code, words in WORK[target]:
        done = in_image(root, *command, R2EC_NAMESPACE="r2ec", KUBECONFIG="none")
        assert done.returncode == code, done.stderr + done.stdout
        assert words in done.stderr + done.stdout
    listed = subprocess.run(
        [root / "opt/venv/bin/pip", "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    pinned = (REPOSITORY / "constraints.txt").read_text().lower()
    for line in listed.lower().splitlines():
        name = line.split("==")[0]
        if name not in ("r2ec", "pip", "setuptools") and not name.startswith("nvidia"):
            assert line.split("+")[0].replace("_", "-") in pinned.replace("_", "-"), line


# What an image must be able to do, with the exit code of what is not there.
WORK = {
    "train": [
        (("r2ec-cli", "torchrun", "--standalone", "-m", "r2ec", "train", "--config=x"), 3, "x"),
        (("python", "-c", "import deepspeed, r2ec.recpo.train"), 0, ""),
    ],
    "score": [
        (("r2ec-cli", "score", "--model=x", "--date=2024-05-31"), 3, "x"),
        (("r2ec-cli", "embed", "--model=x"), 3, "no catalog"),
        (("r2ec-cli", "publish", "--date=2024-05-31"), 3, "2024-05-31"),
    ],
    "spark": [
        (("r2ec-cli", "k8s", "spark-submit", "--driver=x", "job.py"), 2, "no cluster"),
        (("spark-submit", "--version"), 0, "4.3.0"),
    ],
}
