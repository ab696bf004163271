"""Being told to stop: SIGTERM, which clusters send before they take a machine away.

Python code between two instructions is no safe place to stop. The signal is only noted; long work
asks between its steps, ends where nothing is lost, and raises `StoppedError` (exit code 75), upon
which it may be run again.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from r2ec.logs import get_logger

_LOG = get_logger(__name__)


class StopSignal:
    """Notes SIGTERM while the `with` block runs; `received` says whether it came.

    Outside the main thread, where Python delivers no signals, it never comes.
    """

    def __init__(self) -> None:
        self.received = False
        self._before: Any = None

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            _LOG.warning("told to stop (SIGTERM): ending after the step in hand")
        self.received = True
