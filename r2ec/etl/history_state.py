"""What a day's histories were made from: the small file that lies beside them."""

import json
from dataclasses import asdict, dataclass
from datetime import date

from r2ec.etl.staging import STAGING, Staging
from r2ec.storage import Warehouse

STATE_NAME = "_made_from.json"
_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LogFile:
    """A file of the log as it was read: address, bytes, and its last event (None: no event)."""

    uri: str
    num_bytes: int
    last_time: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryState:
    """The log's files, the options that shape a history, and the catalog's number of items.

    `num_unknown` counts the rows left out since their item was not in the catalog.
    """

    options: str
    window: int
    num_items: int
    num_unknown: int
    files: tuple[LogFile, ...]

    def to_bytes(self) -> bytes:
        """JSON, the same for the same state."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=1).encode()


def stage_state(staging: Staging, day: date, state: HistoryState) -> None:
    """Lay the state beside the staged histories of a day: they are put in place together."""
    folder = (*STAGING, staging.run, "histories", f"date={day}")
    staging.warehouse.replace_file(state.to_bytes(), *folder, STATE_NAME)


def load_state(warehouse: Warehouse, day: str) -> HistoryState | None:
    """The state of a day's histories; None where they have none or one of another version."""
    try:
        found = json.loads(warehouse.read_file("histories", f"date={day}", STATE_NAME))
    except FileNotFoundError:
        return None
    if found.pop("version", None) != _VERSION:
        return None
    files = tuple(LogFile(**file) for file in found.pop("files"))
    return HistoryState(files=files, **found)
