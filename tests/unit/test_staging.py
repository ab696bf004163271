import os
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2ec.errors import R2ecError
from r2ec.etl.staging import STAGING, open_staging
from r2ec.lock import JobLock
from r2ec.storage import Warehouse

SPLITS = [("sequences", f"split={split}") for split in ("train", "valid", "test")]


def fill(folder, parts, name, text):
    """A file of a partition, Hadoop's checksum beside it, and what a dead task had begun."""
    path = folder.joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": [text]}), path / name)
    path.joinpath(f".{name}.crc").write_text("crc")
    path.joinpath(f".{name}.0123.tmp").write_text("PAR1")


def stage(root, text):
    """A run that replaces train, adds valid and has nothing for test."""
    staging = open_staging(Warehouse(str(root)), "job")
    for parts in SPLITS[:2]:
        fill(root.joinpath(*STAGING, staging.run), parts, f"{text}.parquet", text)
    return staging


def contents(root):
    return {
        str(path.relative_to(root)): pq.ParquetFile(path).read()["text"][0].as_py()
        for path in sorted(root.glob("sequences/**/*.parquet"))
        if not path.name.startswith(".")
    }


def first_state(root):
    fill(root, SPLITS[0], "old.parquet", "old")
    fill(root, SPLITS[2], "old.parquet", "old")
    return contents(root)


WANTED = {f"sequences/split={split}/new.parquet": "new" for split in ("train", "valid")}


def test_publishing_replaces_adds_and_removes_partitions(tmp_path):
    first_state(tmp_path)
    stage(tmp_path, "new").publish(SPLITS)
    assert contents(tmp_path) == WANTED
    assert not list(tmp_path.glob("sequences/**/.*new*"))
    assert not list(tmp_path.joinpath(*STAGING).iterdir())


def test_what_is_staged_but_not_published_changes_nothing(tmp_path):
    before = first_state(tmp_path)
    stage(tmp_path, "new")
    open_staging(Warehouse(str(tmp_path)), "job")
    assert contents(tmp_path) == before


def test_a_job_killed_at_any_step_leaves_the_old_tables_or_the_next_job_finishes(
    tmp_path, monkeypatch
):
    for step in range(100):
        root = tmp_path / str(step)
        before = first_state(root)
        staging = stage(root, "new")
        calls = iter(range(1_000))
        with monkeypatch.context() as patch:
            for name in ("rename", "replace", "rmdir", "remove"):
                patch.setattr(os, name, killed_after(getattr(os, name), calls, step))
            try:
                staging.publish(SPLITS)
                was_killed = False
            except KeyboardInterrupt:
                was_killed = True
        ready = root.joinpath(*STAGING, staging.run, "ready.json").exists()
        if was_killed and not ready and contents(root) != WANTED:
            assert contents(root) == before
            continue
        open_staging(Warehouse(str(root)), "another job")
        assert contents(root) == WANTED
        if not was_killed:
            break
    assert step > 10


def killed_after(act, calls, step):
    def maybe(*args, **kwargs):
        if next(calls) >= step:
            raise KeyboardInterrupt
        return act(*args, **kwargs)

    return maybe


def test_giving_up_after_publishing_has_begun_finishes_it(tmp_path, monkeypatch):
    first_state(tmp_path)
    staging = stage(tmp_path, "new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed_after(os.rename, iter(range(100)), 1))
        with pytest.raises(KeyboardInterrupt):
            staging.publish(SPLITS)
    staging.discard()
    assert contents(tmp_path) == WANTED


@pytest.mark.parametrize("num_done", [0, 1])
def test_a_run_that_lost_its_lock_publishes_nothing_more(tmp_path, num_done):
    before = first_state(tmp_path)

    class Lost(JobLock):
        """A lock that is taken over after so many partitions."""

        left = 1 + num_done if num_done else 0

        def check(self):
            if not self.left:
                raise R2ecError("lost")
            self.left -= 1

    staging = stage(tmp_path, "new")
    lost = replace(staging, lock=Lost(staging.warehouse, "job"))
    with pytest.raises(R2ecError, match="lost"):
        lost.publish(SPLITS)
    train, valid = (f"sequences/split={split}/new.parquet" for split in ("train", "valid"))
    assert (train in contents(tmp_path)) == bool(num_done)
    assert valid not in contents(tmp_path)
    if not num_done:
        lost.discard()
        assert contents(tmp_path) == before
    # What had begun is finished by the run that has the lock.
    open_staging(Warehouse(str(tmp_path)), "job")
    assert contents(tmp_path) == (WANTED if num_done else before)


def test_staging_forgotten_for_a_day_is_removed(tmp_path):
    staging = stage(tmp_path, "new")
    folder = tmp_path.joinpath(*STAGING, staging.run)
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
    open_staging(Warehouse(str(tmp_path)), "job")
    assert not folder.exists()


def test_a_warehouse_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(R2ecError, match=r"file/warehouse.*--warehouse") as caught:
        open_staging(Warehouse(str(tmp_path / "file" / "warehouse")), "job")
    assert caught.value.exit_code == 1
