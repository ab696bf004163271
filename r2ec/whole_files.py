"""Is a file all there? What its own bytes tell, where no length and no checksum does."""

import gzip
import json
import os
import zlib
from pathlib import Path

GZIP_MAGIC = b"\x1f\x8b"
_READ_BYTES = 1 << 20
_LAST_BYTES = 1 << 22


def is_packed(name: str) -> bool:
    """Whether a file of this name is compressed by gzip."""
    return name.endswith(".gz")


def first_bytes(path: Path) -> bytes:
    """The two bytes by which a gzip file is known."""
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC))


def fault_at_end(path: Path, name: str) -> str | None:
    """What is missing at the end of a file of this name; None where nothing is, or none can tell.

    A gzip file is read to its end marker; the last line of JSON lines must be whole.
    """
    if is_packed(name):
        return _fault_of_gzip(path)
    if name.endswith((".jsonl", ".ndjson")):
        return _fault_of_last_line(path)
    return None


def _fault_of_gzip(path: Path) -> str | None:
    try:
        with gzip.open(path) as file:
            while file.read(_READ_BYTES):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return str(error)
    return None


def _fault_of_last_line(path: Path) -> str | None:
    with path.open("rb") as file:
        file.seek(-min(_LAST_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
        lines = file.read().rstrip(b"\r\n").rsplit(b"\n", 1)
    if len(lines) == 1 and len(lines[0]) >= _LAST_BYTES:
        return None  # a line too long to be looked at
    try:
        json.loads(lines[-1] or b"{}")
    except ValueError:
        return "its last line is no whole JSON value"
    return None
