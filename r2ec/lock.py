"""One run of a job at a time on a warehouse or in a folder: the first wins, the others name it.

Locally the lock is a file that only one process can create. An object store has no such thing:
there each run lays down a claim, looks at the others', holds its claim if none is stronger, and
looks again. A lock is renewed while its holder lives; one that was not for ten minutes, or whose
process is gone (seen by runs beside it), is taken over. A holder that slept for so long looks
(`check`) before it publishes, and never renews a lock that is not its own.
"""

import json
import os
import random
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from r2ec.errors import NotReadyError, R2ecError
from r2ec.storage import Warehouse

LOCKS = ("_staging", "etl-locks")
RENEW_SECONDS, DEAD_SECONDS = 30.0, 600.0
FOLDER_LOCKS, FOLDER_DEAD_SECONDS = "_lock", 120.0
_CLAIM_TRIES = 4


class JobLock:
    """Held as a context. Raises NotReadyError, with the holder, when another run has it."""

    def __init__(
        self,
        warehouse: Warehouse,
        job: str,
        *,
        folder: tuple[str, ...] = LOCKS,
        told: str = "",
        remedy: str = "wait for it",
        dead_seconds: float | None = None,
    ) -> None:
        """`told` and `remedy` are for the message; `dead_seconds` without renewal end a lock."""
        self._warehouse = warehouse
        self._job = job
        self._folder = folder
        self._told = told or f"{job} runs already on this warehouse"
        self._remedy = remedy
        self._own_dead_seconds = dead_seconds
        self._token = uuid.uuid4().hex
        self._is_held = True
        self._released = threading.Event()
        self._renewer = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Self:
        if self._folder == LOCKS:
            self._warehouse.check_writable()
        if self._warehouse.is_s3:
            self._claim()
        else:
            self._create()
        self._renewer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._released.set()
        self._renewer.join()
        if self._warehouse.is_s3 or self._holder(self._name).get("token") == self._token:
            self._warehouse.remove_file(*self._folder, self._name)

    def check(self) -> None:
        """Raise R2ecError when the lock was taken over by another run."""
        if self._is_ours():
            return
        raise R2ecError(
            f"{self._job}: this run was silent for more than {self._dead_seconds / 60:.0f} minutes,"
            " and another one has taken its lock; this one stops, and publishes nothing more. Run"
            " it again if what the other one built is not what you want"
        )

    @property
    def _dead_seconds(self) -> float:
        return DEAD_SECONDS if self._own_dead_seconds is None else self._own_dead_seconds

    def _is_ours(self) -> bool:
        if self._holder(self._name).get("token") != self._token:
            return False
        others = [name for name in self._claims() if name != self._name]
        return not any(self._holder(name).get("is_held") for name in others)

    @property
    def _name(self) -> str:
        return f"{self._job}.{self._token}.json" if self._warehouse.is_s3 else f"{self._job}.json"

    def _create(self) -> None:
        path = self._warehouse.path(*self._folder, self._name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        whole = f"{path}.{self._token}"
        with open(whole, "wb") as file:
            file.write(self._card())
        try:
            for _ in range(2):
                try:
                    os.link(whole, path)  # fails where there is one; the lock is never half-written
                    return
                except FileExistsError:
                    self._refuse_unless_dead(self._name)
                    self._take_away(path, whole)
            self._refuse(self._name, self._holder(self._name))
        finally:
            os.remove(whole)

    def _take_away(self, path: str, whole: str) -> None:
        """Remove a dead lock; one that another run has put in its place meanwhile is put back."""
        dead, aside = self._holder(self._name).get("token"), f"{whole}.dead"
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return
        with open(aside, "rb") as file:
            if json.load(file).get("token") != dead:
                os.link(aside, path)
        os.remove(aside)

    def _claim(self) -> None:
        for attempt in range(_CLAIM_TRIES):
            # A name of its own for each attempt: what was seen of an earlier one cannot hurt it.
            self._token = uuid.uuid4().hex
            self._lay_claim(is_held=False)
            stronger = self._stronger_claim()
            # Two that pass here at once each find the other's claim held, and neither has the job:
            # both try again, or nobody would have it.
            at_once = stronger is None
            if stronger is None:
                self._lay_claim(is_held=True)
                stronger = self._stronger_claim()
                if stronger is None:
                    return
            name, holder = stronger
            self._warehouse.remove_file(*self._folder, self._name)
            if (holder.get("is_held") and not at_once) or attempt + 1 == _CLAIM_TRIES:
                self._refuse(name, holder)
            time.sleep(random.uniform(0.05, 0.5))

    def _lay_claim(self, *, is_held: bool) -> None:
        self._is_held = is_held
        self._warehouse.replace_file(self._card(), *self._folder, self._name)

    def _stronger_claim(self) -> tuple[str, dict[str, object]] | None:
        """Another run's claim that is held, or would be as well by its lower name.

        Of two runs each of which looks after laying its claim, at most one finds none: had the
        lower one looked before the other held its claim, the other sees the lower one now.
        """
        for name in self._claims():
            if name == self._name:
                continue
            if self._is_dead(name):
                self._warehouse.remove_file(*self._folder, name)
                continue
            holder = self._holder(name)
            if holder and (holder.get("is_held") or name < self._name):
                return name, holder
        return None

    def _claims(self) -> list[str]:
        paths = self._warehouse.list_files(*self._folder, suffix=".json")
        names = [path.rsplit("/", 1)[-1] for path in paths]
        return [name for name in names if name.startswith(f"{self._job}.")]

    def _card(self) -> bytes:
        card = {
            "token": self._token,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "processes": _processes(),
            "is_held": self._is_held,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return json.dumps(card).encode()

    def _holder(self, name: str) -> dict[str, object]:
        try:
            found: dict[str, object] = json.loads(self._warehouse.read_file(*self._folder, name))
        except (OSError, ValueError):  # gone, or not written yet
            return {}
        return found

    def _is_dead(self, name: str) -> bool:
        info = self._warehouse.filesystem.get_file_info(self._warehouse.path(*self._folder, name))
        if info.mtime is None:
            return False  # gone meanwhile
        if time.time() - info.mtime.timestamp() > self._dead_seconds:
            return True
        holder = self._holder(name)
        if holder.get("processes") != _processes() or not isinstance(holder.get("process"), int):
            return False
        try:
            os.kill(int(str(holder["process"])), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def _refuse_unless_dead(self, name: str) -> None:
        if self._warehouse.exists(*self._folder, name) and not self._is_dead(name):
            self._refuse(name, self._holder(name))

    def _refuse(self, name: str, holder: dict[str, object]) -> None:
        raise NotReadyError(
            f"{self._told}: process {holder.get('process')} on {holder.get('host')}, since"
            f" {holder.get('since')}; {self._remedy}. A run that died is noticed after"
            f" {self._dead_seconds / 60:.0f} minutes, or remove"
            f" {self._warehouse.path(*self._folder, name)}"
        )

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            # A store that cannot be reached now may be in half a minute.
            with suppress(OSError):
                if not self._is_ours():
                    continue
                if self._warehouse.is_s3:
                    self._warehouse.replace_file(self._card(), *self._folder, self._name)
                else:
                    os.utime(self._warehouse.path(*self._folder, self._name))


def folder_lock(folder: Path, job: str, *, told: str, remedy: str) -> JobLock:
    """The lock of a job that writes in a local folder of its own; it lies in the folder `_lock`."""
    return JobLock(
        Warehouse(str(folder)),
        job,
        folder=(FOLDER_LOCKS,),
        told=told,
        remedy=remedy,
        dead_seconds=FOLDER_DEAD_SECONDS,
    )


@cache
def _processes() -> str:
    """Where a process number means what it means here: not in another container or after a boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        boot = numbers = ""
    return f"{socket.gethostname()} {boot} {numbers}"
