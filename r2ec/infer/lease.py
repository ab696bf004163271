"""One worker at a time on a shard or a date, by a small file with a heartbeat.

The lease spares double work and says who is at it; it is not what keeps the tables right. Two
workers at once write the same bytes (`writer.py`), and a publisher never removes a run that the
pointer names (`publish.py`).
"""

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType

from r2ec.errors import R2ecError
from r2ec.storage import Warehouse

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


class LeaseHeldError(R2ecError):
    """Somebody else is at work on the same thing (exit code 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who holds a lease; `heartbeat` is in seconds since 1970."""

    host: str
    pid: int
    token: str
    heartbeat: float

    def is_alive(self) -> bool:
        """Whether the holder may still be at work, as far as this host can tell."""
        age = time.time() - self.heartbeat
        if abs(age) > STALE_SECONDS:  # stopped, or the clock was set: do not wait for it
            return False
        if self.host != socket.gethostname():
            return True
        return self.pid != os.getpid() and _process_exists(self.pid)


class Lease:
    """`with Lease(warehouse, name, what="shard 0 of run R is being scored"):`

    Raises `LeaseHeldError` when another live process holds it. A holder that is dead on this host,
    or silent for `STALE_SECONDS`, is taken over. The file is `_staging/leases/<name>.json`.
    """

    def __init__(self, warehouse: Warehouse, name: str, *, what: str) -> None:
        self._warehouse, self._what = warehouse, what
        self._path = ("_staging", "leases", f"{name}.json")
        self._token = uuid.uuid4().hex
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, daemon=True)

    def __enter__(self) -> "Lease":
        self._refuse_if_held()
        self._beat()
        self._refuse_if_held()  # another one may have come at the same moment: the last one stays
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        # One that cannot be removed grows stale; what ended the work is not hidden behind it.
        with suppress(OSError):
            holder = self.holder()
            if holder is not None and holder.token == self._token:
                self._warehouse.remove_file(*self._path)

    def _refuse_if_held(self) -> None:
        holder = self.holder()
        if holder is None or holder.token == self._token or not holder.is_alive():
            return
        age = max(0.0, time.time() - holder.heartbeat)
        raise LeaseHeldError(
            f"{self._what} by host {holder.host}, process {holder.pid}, heartbeat {age:.0f} s ago; "
            f"wait for it, or end it and try again {STALE_SECONDS:.0f} s later"
        )

    def holder(self) -> Holder | None:
        """Who holds it now, dead or alive."""
        try:
            return Holder(**json.loads(self._warehouse.read_file(*self._path)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # no lease of ours
            return None

    def _beat(self) -> None:
        holder = Holder(
            host=socket.gethostname(), pid=os.getpid(), token=self._token, heartbeat=time.time()
        )
        self._warehouse.replace_file(json.dumps(asdict(holder)).encode(), *self._path)

    def _keep_alive(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            # A full disk, a store that is away for a while: the next beat may come through.
            with suppress(OSError):
                holder = self.holder()
                if holder is not None and holder.token != self._token:
                    return  # taken over while this process stood still; both may go on
                self._beat()


def live_leases(warehouse: Warehouse, prefix: str) -> list[tuple[str, Holder]]:
    """Names of the leases that begin so and whose holders may still be at work, with these."""
    found = []
    for path in warehouse.list_files("_staging", "leases", suffix=".json"):
        name = path.rsplit("/", 1)[-1].removesuffix(".json")
        holder = Lease(warehouse, name, what="").holder() if name.startswith(prefix) else None
        if holder is not None and holder.is_alive():
            found.append((name, holder))
    return found


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
