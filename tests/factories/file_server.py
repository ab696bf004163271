"""An HTTP server on the loopback that serves files as badly as it is told to."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(kw_only=True)
class FileServer:
    """What is served by path, how, and the requests that came: (path, Range, If-Range)."""

    files: dict[str, bytes] = field(default_factory=dict)
    break_after: list[int] = field(default_factory=list)  # body bytes, for one request each
    failing: list[int] = field(default_factory=list)  # a status, for one request each
    heeds_range: bool = True
    heeds_if_range: bool = True
    has_etag: bool = True
    says_length: bool = True
    changes_to: bytes | None = None  # after the first request
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(**settings: object) -> Iterator[FileServer]:
    """The server, running until the block ends."""
    state = FileServer(**settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(state: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
            state.requests.append((self.path, wanted, condition))
            if state.failing:
                self.send_error(state.failing.pop(0))
                return
            data = state.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            etag = f'"{hashlib.md5(data).hexdigest()}"'
            start = 0
            if (
                wanted
                and state.heeds_range
                and (not state.heeds_if_range or condition in (None, etag))
            ):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start > len(data):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if state.has_etag:
                self.send_header("ETag", etag)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if state.says_length:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            body = data[start:]
            self.wfile.write(body[: state.break_after.pop(0)] if state.break_after else body)
            if state.changes_to is not None:
                state.files[self.path] = state.changes_to

        def log_message(self, *args: object) -> None:
            pass

    return Handler
