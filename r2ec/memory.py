"""How much memory this process may take, and what is said where there is too little."""

import os
import tempfile
from pathlib import Path

from r2ec.errors import R2ecError

_CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes that this process may still take: the machine's, or less where its cgroup says so."""
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024)
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            used = int((_CGROUP / "memory.current").read_text())
            free.append(int(limit) - used + _page_cache())
    except (OSError, ValueError):
        pass  # not Linux, or an older cgroup: what is known so far
    return max(0, min(free))


def no_room(what: str, error: OSError) -> R2ecError:
    """The error for something too large for memory that the temporary files have no room for."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return R2ecError(
        f"{what} fit neither into memory nor into {tempfile.gettempdir()} ({reason}): set TMPDIR to"
        " a folder with that much room, or take a machine with more memory"
    )


def _page_cache() -> int:
    """Bytes of the cgroup that the system gives back when they are wanted."""
    fields = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    return int(fields["inactive_file"])
