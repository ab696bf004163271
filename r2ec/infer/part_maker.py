"""The parts of a shard in three steps, each beside another step of the parts before and after it.

1. `prepare`: which users are carried over, the prompts of the others (in the reading thread).
2. `make`: the reasonings (in the thread of the run).
3. what `make` returns: ranking, rows and files (in the writing thread).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from r2ec.catalog import Catalog
from r2ec.infer.carry import CarrySource, PublishedRows
from r2ec.infer.manifest import PartRecord
from r2ec.infer.plan import RunPlan
from r2ec.infer.scorer import Completed, Prompted, Scorer, ScoringInputs
from r2ec.infer.settings import ScoreSettings
from r2ec.infer.writer import ShardWriter
from r2ec.storage import Warehouse
from r2ec.tables import History


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedPart:
    """A part before its reasonings: rows carried over, prompts of all others.

    Either may be None, not both. `start` is the clock (`time.monotonic`) before anything was done
    for it; `load_seconds` went into loading the model.
    """

    part: int
    start: float
    load_seconds: float
    carried: tuple[pa.Table, pa.Table] | None
    prompted: Prompted | None


class PartMaker:
    """Makes the parts of a shard: carries over what it may, scores the others.

    The model is loaded when the first user has to be scored. Arguments: see `ShardJob`.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        plan: RunPlan,
        writer: ShardWriter,
        needs: ScoringInputs,
        *,
        model_dir: str,
        catalog: Catalog,
        settings: ScoreSettings,
        history_items: int,
        source: CarrySource | None,
    ) -> None:
        self._plan, self._writer, self._needs = plan, writer, needs
        self._model_dir, self._catalog, self._settings = model_dir, catalog, settings
        self._history_items = history_items
        self._scorer: Scorer | None = None
        self._published: PublishedRows | None = None
        self._device_free = 0.0
        if source is not None:
            same = source.num_shards == plan.num_shards
            self._published = PublishedRows(warehouse, source, writer.shard if same else None)

    def prepare(
        self, parts: Iterator[tuple[int, list[History]]], finished: frozenset[int]
    ) -> Iterator[tuple[int, list[History], PreparedPart | None]]:
        """Each part with its users, prepared; None in place of what is finished."""
        for part, users in parts:
            yield part, users, None if part in finished else self._prepared(part, users)

    def _prepared(self, part: int, users: Sequence[History]) -> PreparedPart:
        start = time.monotonic()
        carried = None
        if self._published is not None:
            carried = self._published.unchanged(users, self._history_items)
        if carried is not None:
            names = set(carried[1]["user_id"].to_pylist())
            users = [user for user in users if user.user_id not in names]
        begin = time.monotonic()
        if users and self._scorer is None:
            self._scorer = Scorer(
                self._model_dir,
                self._plan.model,
                self._catalog,
                self._settings,
                self._needs,
                batch_rows=self._plan.batch_rows,
                cache_gib=self._plan.cache_gib,
            )
        return PreparedPart(
            part=part,
            start=start,
            load_seconds=time.monotonic() - begin,
            carried=carried,
            prompted=self._scorer.prompts(users) if users and self._scorer else None,
        )

    def make(self, prepared: PreparedPart) -> Callable[[], PartRecord]:
        """Generate the reasonings of a part; what is returned ranks its users and writes it."""
        begin = time.monotonic()
        completed = None
        if prepared.prompted is not None:
            assert self._scorer is not None
            completed = self._scorer.complete(prepared.prompted)
        return lambda: self._write(prepared, completed, begin)

    def _write(
        self, prepared: PreparedPart, completed: Completed | None, begin: float
    ) -> PartRecord:
        tables = [] if prepared.carried is None else [prepared.carried]
        device_seconds = 0.0
        if completed is not None:
            assert self._scorer is not None
            tables.append(self._scorer.tables(completed))
            # From its first token to its last list, less what the part before had of that time.
            end = time.monotonic()
            device_seconds = prepared.load_seconds + end - max(begin, self._device_free)
            self._device_free = end
        recommendations, reasoning = (pa.concat_tables(both) for both in zip(*tables, strict=True))
        return self._writer.write_part(
            prepared.part,
            recommendations,
            reasoning,
            device_seconds=device_seconds,
            wall_seconds=time.monotonic() - prepared.start,
        )
