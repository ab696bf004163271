"""What `doctor` looks at: each check says what was found and how to get what is missing."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

from r2ec.errors import R2ecError
from r2ec.storage import Warehouse

Status = Literal["ok", "note", "missing"]
LEAST_PYTHON = (3, 11)
LEAST_JAVA = 17
LEAST_FREE_BYTES = 2 * 2**30
EXTRAS = {"": True, "spark": True, "train": True, "k8s": False, "dev": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One finding; `missing` is what has to be mended before everything runs."""

    group: str
    name: str
    status: Status
    found: str
    remedy: str = ""


def all_checks(warehouse_root: str) -> Iterator[Check]:
    """Every check, in the order in which they are shown."""
    yield check_python()
    yield from check_packages()
    yield check_java()
    yield from check_devices()
    yield from check_warehouse(warehouse_root)


def check_python() -> Check:
    """The interpreter: 3.11 or newer."""
    found = ".".join(map(str, sys.version_info[:3])) + f" at {sys.executable}"
    is_new = sys.version_info >= LEAST_PYTHON
    return Check(
        group="Python",
        name="python",
        status="ok" if is_new else "missing",
        found=found,
        remedy="" if is_new else "install Python 3.11 or newer and make a new .venv with it",
    )


def check_packages() -> Iterator[Check]:
    """Versions of the packages of each extra, as far as they are installed."""
    for extra, is_needed in EXTRAS.items():
        names = _packages_of(extra)
        found = {name: _version(name) for name in names}
        absent = [name for name, number in found.items() if number is None]
        here = ", ".join(f"{name} {number}" for name, number in found.items() if number)
        command = f"pip install -c constraints.txt -e '.[{extra}]'" if extra else "pip install -e ."
        yield Check(
            group="Packages",
            name=extra or "base",
            status="ok" if not absent else ("missing" if is_needed else "note"),
            found=here or "none",
            remedy=f"{', '.join(absent)} missing: {command}" if absent else "",
        )


def check_java() -> Check:
    """The Java that Spark would start: 17 or newer."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    major = java_major(java) if java and os.path.exists(java) else None
    remedy = (
        "Spark needs Java 17 or newer: apt-get install openjdk-17-jre-headless, brew install "
        "openjdk@17 or conda install -c conda-forge openjdk=17; or point JAVA_HOME at one"
    )
    if major is None:
        found = f"JAVA_HOME={home} has no working bin/java" if home else "no java on the PATH"
        return Check(group="Java", name="java", status="missing", found=found, remedy=remedy)
    is_new = major >= LEAST_JAVA
    return Check(
        group="Java",
        name="java",
        status="ok" if is_new else "missing",
        found=f"version {major} at {java}",
        remedy="" if is_new else remedy,
    )


def java_major(java: str) -> int | None:
    """Major version that `java -version` tells, or None when it does not run."""
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr)
    return int(match[1]) if match else None


def check_devices() -> Iterator[Check]:
    """Processors, memory and accelerators."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Check(
        group="Devices", name="cpu", status="ok", found=f"{cores} cores, {gibibytes(memory)} memory"
    )
    if _version("torch") is None:
        return
    import torch

    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        found = f"{device.name}, {gibibytes(device.total_memory)}"
        yield Check(group="Devices", name=f"cuda:{index}", status="ok", found=found)
    if not torch.cuda.is_available():
        note = "training and scoring run on the CPU: fine for the sample, slow for large models"
        yield Check(group="Devices", name="cuda", status="note", found="none", remedy=note)


def check_warehouse(root: str) -> Iterator[Check]:
    """Whether the warehouse can be written, has room, and what is in it."""
    try:
        warehouse = Warehouse(root)
        where = warehouse.path()
        if not warehouse.is_s3:
            yield _check_room(where)
        if not warehouse.exists():
            if not warehouse.is_s3:
                yield _check_parent(where)
            remedy = "spark-submit jobs/build_catalog.py makes it; or give another --warehouse"
            found = f"nothing at {where} yet"
            yield Check(group="Warehouse", name="tables", status="note", found=found, remedy=remedy)
            return
        warehouse.check_writable()
        yield Check(group="Warehouse", name="writable", status="ok", found=where)
        published = warehouse.partitions("runs", "date")
        versions = warehouse.partitions("catalog", "version")
        yield Check(
            group="Warehouse",
            name="tables",
            status="ok" if versions else "note",
            found=f"catalog {versions[-1] if versions else 'none'}, "
            f"published dates: {len(published)}{f', last {published[-1]}' if published else ''}",
            remedy="" if versions else "spark-submit jobs/build_catalog.py makes the catalog",
        )
    except (R2ecError, OSError) as error:
        yield Check(
            group="Warehouse", name="access", status="missing", found=root, remedy=str(error)
        )


def _check_room(path: str) -> Check:
    there = _nearest_folder(path)
    free = shutil.disk_usage(there).free
    is_enough = free >= LEAST_FREE_BYTES
    return Check(
        group="Warehouse",
        name="disk",
        status="ok" if is_enough else "note",
        found=f"{gibibytes(free)} free at {there}",
        remedy="" if is_enough else "little room: free some space or choose another --warehouse",
    )


def _check_parent(path: str) -> Check:
    there = _nearest_folder(path)
    can_write = os.access(there, os.W_OK)
    return Check(
        group="Warehouse",
        name="writable",
        status="ok" if can_write else "missing",
        found=f"{there} {'can' if can_write else 'cannot'} be written",
        remedy="" if can_write else "change its owner or mode, or choose another --warehouse",
    )


def _nearest_folder(path: str) -> str:
    """The path, or the nearest folder above it that exists."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def gibibytes(count: int) -> str:
    """A number of bytes as GiB."""
    return f"{count / 2**30:,.1f} GiB"


def _packages_of(extra: str) -> list[str]:
    """Distribution names that the package asks for under this extra (the base's for '')."""
    wanted = []
    for line in requires("r2ec") or []:
        requirement, _, marker = line.partition(";")
        match = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        if (match[1] if match else "") == extra:
            wanted.append(re.split(r"[\s<>=!~\[(]", requirement.strip(), maxsplit=1)[0])
    return sorted(wanted)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
