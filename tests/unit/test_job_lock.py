import json
import os
import subprocess
import sys
import threading
import time

import pytest

from r2ec import lock
from r2ec.errors import NotReadyError, R2ecError
from r2ec.lock import LOCKS, JobLock
from r2ec.storage import Warehouse
from tests.factories.object_store import BUCKET, object_store


@pytest.fixture(scope="module")
def store():
    with object_store() as environment:
        yield environment


@pytest.fixture
def s3_root(store, monkeypatch, request):
    """The root of a warehouse on S3."""
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{request.node.name}"


HOLD = """
import sys, time
from r2ec.lock import JobLock
from r2ec.storage import Warehouse
with JobLock(Warehouse(sys.argv[1]), "job"):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(root):
    """A process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, root], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def locks(warehouse):
    return warehouse.list_files(*LOCKS, suffix="")


def check_one_at_a_time(root):
    """A living holder is named; a killed one is noticed; another job is not hindered."""
    warehouse = Warehouse(root)
    process = holder(root)
    try:
        told = f"job runs already on this warehouse: process {process.pid} on .*, since 20"
        with pytest.raises(NotReadyError, match=told), JobLock(warehouse, "job"):
            pass
        with JobLock(warehouse, "other job"):
            pass
    finally:
        process.kill()
        process.communicate()
    with JobLock(warehouse, "job"):
        assert len(locks(warehouse)) == 1
    assert locks(warehouse) == []


def check_race(root, monkeypatch):
    """Of many that begin at once exactly one has the lock at any time."""
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: threading.Event().wait(seconds / 10))
    inside, most, won = 0, 0, 0
    unexpected: list[Exception] = []
    guard = threading.Lock()

    def run():
        nonlocal inside, most, won
        try:
            with JobLock(Warehouse(root), "job"):
                with guard:
                    inside, won = inside + 1, won + 1
                    most = max(most, inside)
                threading.Event().wait(0.02)
                with guard:
                    inside -= 1
        except NotReadyError:
            pass
        except Exception as error:
            unexpected.append(error)

    threads = [threading.Thread(target=run) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert unexpected == []
    assert (most, inside) == (1, 0)
    assert won >= 1
    assert locks(Warehouse(root)) == []


def test_one_run_of_a_job_at_a_time(tmp_path):
    check_one_at_a_time(str(tmp_path))


def test_one_run_of_a_job_at_a_time_on_s3(s3_root):
    check_one_at_a_time(s3_root)


def test_of_many_runs_that_begin_at_once_one_is_inside(tmp_path, monkeypatch):
    check_race(str(tmp_path), monkeypatch)


def test_of_many_runs_that_begin_at_once_one_is_inside_on_s3(s3_root, monkeypatch):
    # On a busy machine a claim takes longer than the waits between them: nobody wins the first few.
    monkeypatch.setattr(lock, "_CLAIM_TRIES", 100)
    check_race(s3_root, monkeypatch)


def test_a_lock_of_another_host_is_dead_when_it_is_not_renewed(tmp_path, monkeypatch):
    path = tmp_path.joinpath(*LOCKS, "job.json")
    path.parent.mkdir(parents=True)
    card = {"token": "t", "host": "elsewhere", "process": os.getpid(), "since": "2024-01-01"}
    path.write_text(json.dumps(card))
    with (
        pytest.raises(NotReadyError, match="on elsewhere"),
        JobLock(Warehouse(str(tmp_path)), "job"),
    ):
        pass
    long_ago = time.time() - lock.DEAD_SECONDS - 5
    os.utime(path, (long_ago, long_ago))
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.05)
    with JobLock(Warehouse(str(tmp_path)), "job"):
        os.utime(path, (long_ago, long_ago))
        time.sleep(0.3)
        assert path.stat().st_mtime > long_ago + 1  # the holder renews it
    assert not path.exists()


def test_a_process_of_another_container_is_not_taken_for_dead(tmp_path, monkeypatch):
    nobody = subprocess.Popen([sys.executable, "-c", ""])
    nobody.wait()
    path = tmp_path.joinpath(*LOCKS, "job.json")
    path.parent.mkdir(parents=True)
    card = {"token": "t", "host": "h", "process": nobody.pid, "since": "2024-01-01"}
    path.write_text(json.dumps({**card, "processes": "another container's"}))
    with pytest.raises(NotReadyError), JobLock(Warehouse(str(tmp_path)), "job"):
        pass
    path.write_text(json.dumps({**card, "processes": lock._processes()}))
    with JobLock(Warehouse(str(tmp_path)), "job"):
        pass


def test_a_lock_that_cannot_be_renewed_once_is_renewed_later(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.02)
    fails, utime, path = [1], os.utime, tmp_path.joinpath(*LOCKS, "job.json")

    def touch(*args):
        if fails:
            raise OSError(fails.pop(), "stale file handle")
        utime(*args)

    with JobLock(Warehouse(str(tmp_path)), "job"):
        os.utime(path, (0, 0))
        monkeypatch.setattr(lock.os, "utime", touch)
        deadline = time.monotonic() + 60
        while path.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 1
        assert not fails


def check_taken_over(root, monkeypatch):
    """A run that slept too long publishes nothing, and leaves the lock to the one that has it."""
    warehouse = Warehouse(root)
    with JobLock(warehouse, "job") as sleeper:
        sleeper.check()
        with monkeypatch.context() as patch:
            patch.setattr(lock, "DEAD_SECONDS", -1.0)
            other = JobLock(warehouse, "job").__enter__()
        with pytest.raises(R2ecError, match=r"another one has taken its lock"):
            sleeper.check()
        other.check()
    other.check()
    other.__exit__(None, None, None)
    assert locks(warehouse) == []


def test_a_run_whose_lock_was_taken_over_is_told(tmp_path, monkeypatch):
    check_taken_over(str(tmp_path), monkeypatch)


def test_a_run_whose_lock_was_taken_over_is_told_on_s3(s3_root, monkeypatch):
    check_taken_over(s3_root, monkeypatch)


def test_a_lock_that_was_taken_over_is_not_renewed_by_the_run_that_had_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.02)
    path = tmp_path.joinpath(*LOCKS, "job.json")
    with JobLock(Warehouse(str(tmp_path)), "job"):
        taken = tmp_path / "taken"
        taken.write_text(json.dumps({"token": "another run's"}))
        taken.replace(path)
        os.utime(path, (0, 0))
        time.sleep(0.3)
        assert path.stat().st_mtime == 0
    assert path.exists()
