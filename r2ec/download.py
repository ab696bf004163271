"""Files fetched by HTTP: gone on with where they broke off, checked, and whole or not there.

What has come lies in `NAME.part`, and of which file it is a part in `NAME.part.json`. It is gone on
with only while the server has that file unchanged (If-Range: RFC 9110, section 13.1.5).
"""

import fcntl
import http.client
import json
import os
import re
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlsplit

from r2ec.checksums import Checksum
from r2ec.errors import NotReadyError, R2ecError, UsageError
from r2ec.logs import get_logger, progress
from r2ec.whole_files import GZIP_MAGIC, fault_at_end, first_bytes, is_packed

READ_BYTES = 1 << 18
LONGEST_WAIT_SECONDS = 60.0
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_logger = get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How often a failure is met with another try, and how long the first wait is (it doubles).

    A try that brought any byte starts the count anew: a long file may break off many times.
    """

    tries: int = 6
    first_wait_seconds: float = 1.0
    timeout_seconds: float = 60.0

    def wait_seconds(self, failures: int) -> float:
        """The wait after so many failures in a row."""
        return float(min(self.first_wait_seconds * 2 ** (failures - 1), LONGEST_WAIT_SECONDS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A file that is there, whole; `was_there` before, and nothing was fetched."""

    path: Path
    num_bytes: int
    was_there: bool


class _BrokenError(Exception):
    """The connection or the server failed; another try may do. `wait_seconds` if it said so."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class _Remote:
    """The file at the server: its address, what tells its versions apart, its bytes if known."""

    url: str
    etag: str | None
    last_modified: str | None
    num_bytes: int | None

    @property
    def validator(self) -> str | None:
        """What If-Range may carry: a strong ETag, else the time of the last change."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


def fetch(
    url: str,
    target: Path,
    *,
    checksum: Checksum | None = None,
    patience: Patience | None = None,
    overwrite: bool = False,
) -> Fetched:
    """Bring the file at `url` to `target`; what is there already stays if the checksum allows it.

    Raises UsageError for an address that is not http(s), NotReadyError when the server has no such
    file or cannot be reached, R2ecError when the bytes are not those of the checksum.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise UsageError(f"{url!r}: give an address that begins with http:// or https://")
    if target.is_file() and not overwrite:
        if checksum is None or checksum.of(target) == checksum:
            return Fetched(path=target, num_bytes=target.stat().st_size, was_there=True)
        _logger.warning("%s is not the file of the checksum: fetching it again", target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with _locked(part) as file:
        began_before = _bring(url, file, part, checksum, patience or Patience())
        found = checksum.of(part) if checksum else None
        if found != checksum and began_before:
            _logger.warning("%s: %s, not %s: once more from the start", url, found, checksum)
            _start_anew(file)
            _bring(url, file, part, checksum, patience or Patience())
            found = checksum.of(part) if checksum else None
        if found != checksum:
            _start_anew(file)
            part.unlink()
            raise R2ecError(
                f"{url}: what came has {found}, and {checksum} was asked for; the file has changed "
                "or was altered on its way: check the checksum and the address"
            )
        _check_kind(url, file, part)
        _check_end(url, part, checksum)
        os.fsync(file.fileno())
        os.replace(part, target)
        _record(part).unlink(missing_ok=True)
    return Fetched(path=target, num_bytes=target.stat().st_size, was_there=False)


def read_sums(url: str, patience: Patience | None = None) -> dict[str, Checksum]:
    """File name -> checksum, of a file as `sha256sum` or `md5sum` writes it (also with --tag).

    Raises `UsageError` where no line is a checksum with a name.
    """
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch(url, Path(folder) / "sums", patience=patience)
        text = fetched.path.read_text(encoding="utf-8", errors="replace")
    sums = {}
    for line in text.splitlines():
        tagged = re.fullmatch(r"\w+ \((.+)\) = ([0-9a-fA-F]+)", line.strip())
        plain = re.fullmatch(r"\\?([0-9a-fA-F]+) [ *](.+)", line.strip())
        if tagged or plain:
            name, digest = tagged.groups() if tagged else plain.groups()[::-1]  # type: ignore[union-attr]
            sums[name.rsplit("/", 1)[-1]] = Checksum.parse(digest)
    if not sums:
        raise UsageError(f"{url}: no line of it is a checksum and a file's name")
    return sums


def join_url(base: str, path: str) -> str:
    """The address of a path below a base address."""
    return f"{base.rstrip('/')}/{quote(path.lstrip('/'))}"


def _bring(
    url: str, file: BinaryIO, part: Path, checksum: Checksum | None, patience: Patience
) -> bool:
    """Fill the part file; returns whether it began with bytes of an earlier connection."""
    failures, resumed = 0, False
    while True:
        offset = file.seek(0, os.SEEK_END)
        try:
            resumed = _go_on(url, file, part, checksum, patience) or resumed
            return resumed
        except _BrokenError as error:
            failures = 1 if file.seek(0, os.SEEK_END) > offset else failures + 1
            if failures >= patience.tries:
                raise NotReadyError(
                    f"{url}: {error}, {failures} times in a row; what has come is kept in {part}: "
                    "run the same command again to go on, or give another address"
                ) from error
            wait = patience.wait_seconds(failures)
            if error.wait_seconds is not None:
                wait = min(error.wait_seconds, LONGEST_WAIT_SECONDS)
            _logger.warning("%s: %s; next try in %.1f s", url, error, wait)
            time.sleep(wait)


def _go_on(
    url: str, file: BinaryIO, part: Path, checksum: Checksum | None, patience: Patience
) -> bool:
    """Receive what is missing over one connection; returns whether some was there before."""
    known = _load_record(part, url)
    offset = file.seek(0, os.SEEK_END)
    if known is None or (known.validator is None and checksum is None):
        offset = 0
    elif offset and offset == known.num_bytes:
        return True
    headers = {"Accept-Encoding": "identity", "User-Agent": "r2ec"}
    if offset and known is not None:
        headers["Range"] = f"bytes={offset}-"
        if known.validator is not None:
            headers["If-Range"] = known.validator
    with _opened(urllib.request.Request(url, headers=headers), file, patience) as response:
        remote, start = _described(url, response)
        if start and (start != offset or not _is_same(remote, known)):
            _start_anew(file)
            raise _BrokenError("the file has changed", wait_seconds=0.0)
        if not start:
            if offset:
                _logger.warning("%s cannot be gone on with: from the start", url)
            _start_anew(file)
        _save_record(part, remote)
        _check_room(part, remote, start)
        _receive(response, file, part, remote, start)
    return start > 0


def _described(url: str, response: http.client.HTTPResponse) -> tuple[_Remote, int]:
    """The file that the response is of, and the byte at which the body begins."""
    start, total = 0, response.headers.get("Content-Length")
    if response.status == 206:
        content_range = response.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range.strip())
        if found is None:
            raise _BrokenError(f"the server sent a part without its place ({content_range!r})")
        start, total = int(found[1]), found[2]
    remote = _Remote(
        url=url,
        etag=response.headers.get("ETag"),
        last_modified=response.headers.get("Last-Modified"),
        num_bytes=int(total) if total and total.isdigit() else None,
    )
    return remote, start


def _is_same(remote: _Remote, known: _Remote | None) -> bool:
    """Some servers heed Range and not If-Range: what they send must be of the version we have."""
    if known is None or remote.validator != known.validator:
        return False
    was_unknown = known.num_bytes is None and known.validator is not None
    return was_unknown or remote.num_bytes == known.num_bytes


@contextmanager
def _opened(
    request: urllib.request.Request, file: BinaryIO, patience: Patience
) -> Iterator[http.client.HTTPResponse]:
    try:
        response = urllib.request.urlopen(request, timeout=patience.timeout_seconds)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(request.full_url, error, file) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise _BrokenError(f"the server cannot be reached ({reason})") from error
    with response:
        yield response


def _refusal(url: str, error: urllib.error.HTTPError, file: BinaryIO) -> Exception:
    if error.code == 416:
        _start_anew(file)
        return _BrokenError("the file has changed", wait_seconds=0.0)
    if error.code in _TRY_AGAIN:
        wait = error.headers.get("Retry-After", "")
        seconds = float(wait) if wait.isdigit() else None
        return _BrokenError(f"the server says {error.code} {error.reason}", seconds)
    if error.code in (404, 410):
        return NotReadyError(
            f"{url}: the server has no such file ({error.code}); check the category's name, the "
            "base address and the file's path below it"
        )
    return NotReadyError(
        f"{url}: the server refuses it ({error.code} {error.reason}); check the address, or give "
        "another one"
    )


def _receive(
    response: http.client.HTTPResponse, file: BinaryIO, part: Path, remote: _Remote, start: int
) -> None:
    """Append the body to the part file; _BrokenError when it ends before its time."""
    missing = None if remote.num_bytes is None else remote.num_bytes - start
    come = 0
    with progress(part.name.removesuffix(".part"), missing, is_bytes=True) as advance:
        try:
            while data := _read(response):
                _write(file, data, part)
                come += len(data)
                advance(len(data))
        finally:
            _write(file, b"", part)
        if missing is not None and come < missing:
            raise _BrokenError(f"the connection broke off at byte {start + come:,}")
    if missing is None:
        _logger.warning("%s: the server did not say how long it is; is it whole?", remote.url)
    elif come > missing:
        _start_anew(file)
        raise _BrokenError("more came than the server said there is")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(READ_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"the connection broke off ({error})") from error


def _write(file: BinaryIO, data: bytes, path: Path) -> None:
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _check_room(part: Path, remote: _Remote, start: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if remote.num_bytes is not None and remote.num_bytes - start > free:
        raise R2ecError(
            f"{remote.url} has {remote.num_bytes - start:,} bytes yet to come, and "
            f"{part.parent} has room for {free:,}: free some space or choose another place"
        )


def _check_kind(url: str, file: BinaryIO, part: Path) -> None:
    """A proxy's page of apology comes as a file, too: it must not pass for a compressed one."""
    head = first_bytes(part)
    if is_packed(part.stem) and head != GZIP_MAGIC:
        _start_anew(file)
        part.unlink()
        raise R2ecError(
            f"{url}: what came is no gzip file (it begins with {head!r}); look at the address in a "
            "browser, and check the base address and the file's path below it"
        )


def _check_end(url: str, part: Path, checksum: Checksum | None) -> None:
    """Where neither a length nor a checksum tells whether all has come, the file itself may."""
    known = _load_record(part, url)
    if checksum is not None or (known is not None and known.num_bytes is not None):
        return
    fault = fault_at_end(part, part.stem)
    if fault:
        raise NotReadyError(
            f"{url}: not all of it has come ({fault}), and the server does not say how long it is; "
            f"what has come is kept in {part}: run the same command again, or give a checksum"
        )


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The part file, open for this process alone."""
    with open(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise R2ecError(
                f"{part}: another download is writing it; wait for it, or choose another place"
            ) from None
        yield file


def _start_anew(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _record(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _save_record(part: Path, remote: _Remote) -> None:
    written = _record(part).with_suffix(".json.tmp")
    written.write_text(json.dumps(asdict(remote)), encoding="utf-8")
    os.replace(written, _record(part))


def _load_record(part: Path, url: str) -> _Remote | None:
    """What the part file is a part of; None if that is not known, or another file."""
    try:
        remote = _Remote(**json.loads(_record(part).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return remote if remote.url == url else None
