"""Scoring from a notebook: a frame of histories in, recommendations and reasoning out.

The same scorer as that of `r2ec-cli score`, so the same rows; nothing is written.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from r2ec import schemas
from r2ec.catalog import Catalog, load_catalog
from r2ec.errors import UsageError
from r2ec.infer.plan import end_of_day
from r2ec.infer.scorer import Scorer, ScoringInputs
from r2ec.infer.settings import ScoreSettings
from r2ec.model.card import check_catalog, load_card
from r2ec.storage import Warehouse
from r2ec.tables import History, histories_of

_ITEMS = ("history_item_index", "history_item_id")


def open_scorer(
    warehouse: Warehouse,
    model_dir: str,
    settings: ScoreSettings | None = None,
    *,
    batch_rows: int = 256,
    device: str | None = None,
) -> Scorer:
    """Load a model, the latest catalog and its item rows, ready to score.

    Without `settings` they are those of `r2ec-cli score`: ten items, greedy reasonings as long as
    training evaluated them. `batch_rows` users run at once. Raises `NotReadyError` for a missing
    model, catalog or embedding, `UsageError` for a catalog that the model does not know, a filter
    or a device that is not there.
    """
    card = load_card(model_dir)
    catalog = load_catalog(warehouse)
    check_catalog(card, catalog, model_dir)
    chosen = settings or ScoreSettings(reasoning_budget=card.reasoning_budget)
    needs = ScoringInputs.load(warehouse, card.fingerprint, catalog, chosen, device=device)
    return Scorer(model_dir, card.fingerprint, catalog, chosen, needs, batch_rows=batch_rows)


def score_frame(scorer: Scorer, frame: Any, *, date: str) -> tuple[pa.Table, pa.Table]:
    """Recommendations and reasoning of the users of a frame, in its order.

    The frame is as `frame_histories` takes it; the tables have the columns of
    `schemas.RECOMMENDATIONS` and `schemas.REASONING`. A user who cannot be scored has a row of
    reasoning with `status = 'error'` and the reason in `error`. Raises `UsageError` as
    `frame_histories`.
    """
    return scorer.score(frame_histories(frame, scorer.catalog, date=date))


def frame_histories(frame: Any, catalog: Catalog, *, date: str) -> list[History]:
    """The rows of a frame as histories at the end of `date`, an ISO day (UTC).

    A frame is whatever gives Arrow columns: pyarrow, pandas, a DuckDB relation, a dict of lists.
    Columns: `user_id`, each once; `history_item_id` (the shop's) or `history_item_index`;
    `history_time`, timestamps (without a zone: UTC); `history_rating` and `history_hash` may be
    absent. The lists are oldest first and of one length.

    A history that is no good has its `fault`: an unknown item, times out of order or after `date`.
    Raises `UsageError` for a frame without these columns, of other types, or a user twice.
    """
    table = _as_table(frame)
    rows = _history_columns(table)
    histories = list(histories_of(rows, _end_of(date)))
    _require_users(histories)
    if "history_item_id" in table.column_names:
        ids = rows["history_item_index"].to_pylist()
        index = catalog.items.indices_of(
            item_id for some in ids for item_id in some or () if item_id is not None
        )
        histories = [_with_index(*pair, index) for pair in zip(histories, ids, strict=True)]
    return [_checked(history) for history in histories]


def _as_table(frame: Any) -> pa.Table:
    try:
        return frame if isinstance(frame, pa.Table) else pa.table(frame)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{type(frame).__name__} is no frame that Arrow can read ({error}); give a pyarrow or"
            " pandas table, a DuckDB relation or a dict of lists"
        ) from error


def _history_columns(table: pa.Table) -> pa.Table:
    """The columns of histories, cast; where the items are ids, these in the place of indices."""
    names = set(table.column_names)
    given = [name for name in _ITEMS if name in names]
    missing = [name for name in ("user_id", "history_time") if name not in names]
    if len(given) != 1 or missing:
        raise UsageError(
            f"the frame has the columns {', '.join(table.column_names)}; it needs user_id,"
            f" history_time and one of {' and '.join(_ITEMS)}"
        )
    ids = pa.list_(pa.string() if given[0] == "history_item_id" else pa.int64())
    items = _cast(table, given[0], ids)
    lengths = pc.fill_null(pc.list_value_length(items), 0).to_pylist()
    return pa.table(
        {
            "user_id": _cast(table, "user_id", pa.string()),
            "history_item_index": items,
            "history_rating": _cast(table, "history_rating", pa.list_(pa.float32()))
            if "history_rating" in names
            else pa.array([[None] * length for length in lengths], pa.list_(pa.float32())),
            "history_time": _cast(table, "history_time", pa.list_(schemas.TIMESTAMP)),
            "history_hash": pc.fill_null(_cast(table, "history_hash", pa.string()), "")
            if "history_hash" in names
            else pa.repeat("", table.num_rows),
        }
    )


def _cast(table: pa.Table, name: str, wanted: pa.DataType) -> pa.ChunkedArray:
    column = table[name]
    found = column.type
    values = getattr(found, "value_type", found)
    if name == "history_time" and not (pa.types.is_temporal(values) or pa.types.is_null(values)):
        # A number could be seconds or milliseconds, a text of any zone: neither is guessed.
        raise UsageError(f"history_time is {found}; make its values timestamps first")
    try:
        # Nanoseconds and doubles lose digits that no prompt has.
        return column.cast(wanted, safe=name not in ("history_time", "history_rating"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"column {name} is {found}, it must be {wanted}: {error}") from error


def _end_of(date: str) -> int:
    try:
        return end_of_day(date)
    except ValueError as error:
        raise UsageError(f"date {date!r} is not a day such as 2024-05-31") from error


def _require_users(histories: list[History]) -> None:
    seen = set()
    for history in histories:
        if not history.user_id or history.user_id in seen:
            what = f"user {history.user_id!r} twice" if history.user_id else "a row without user_id"
            raise UsageError(f"the frame has {what}; give each user one row")
        seen.add(history.user_id)


def _with_index(history: History, ids: list[str], index: Mapping[str, int]) -> History:
    if history.fault:
        return history
    unknown = next((item_id for item_id in ids if item_id not in index), None)
    if unknown is not None:
        return _faulty(history, f"item {unknown!r} is not in the catalog")
    return replace(history, item_index=tuple(index[item_id] for item_id in ids))


def _checked(history: History) -> History:
    """Ratings that are NaN are none; times ascend and lie before the end of the date."""
    if list(history.time) != sorted(history.time):
        return _faulty(history, "the times of the history are not oldest first")
    if history.time and history.time[-1] >= history.now:
        return _faulty(history, "an event of the history lies after the date")
    rating = tuple(None if value != value else value for value in history.rating)
    return replace(history, rating=rating)


def _faulty(history: History, reason: str) -> History:
    return replace(history, item_index=(), rating=(), time=(), fault=reason)
