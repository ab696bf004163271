"""One user's page in the terminal: what was bought, what the model made of it, what it offers."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from r2ec import sql_files
from r2ec.cli import screen
from r2ec.cli.published import told_days
from r2ec.endings import told_ending
from r2ec.errors import NotReadyError
from r2ec.storage import Warehouse
from r2ec.warehouse_views import run_query, with_views

if TYPE_CHECKING:
    import duckdb

HISTORY_SQL = """
SELECT event_time, rating, item_id, title, store
FROM v_user_history
WHERE date = CAST(:date AS DATE) AND user_id = :user_id
ORDER BY position
"""
REASONING_SQL = """
SELECT
    reasoning.reasoning, reasoning.finish_reason, reasoning.reasoning_tokens, reasoning.status,
    reasoning.error, runs.run_id, runs.model
FROM reasoning
INNER JOIN runs ON reasoning.date = runs.date AND reasoning.run_id = runs.run_id
WHERE reasoning.date = CAST(:date AS DATE) AND reasoning.user_id = :user_id
"""
LIST_SQL = """
SELECT rank, score, item_id, title, store, price
FROM v_recommendations
WHERE date = CAST(:date AS DATE) AND user_id = :user_id AND rank <= CAST(:top_k AS INT)
ORDER BY rank
"""
STARS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class UserPage:
    """What the tables hold of one user on one date; rows are as the queries above give them."""

    date: str
    user_id: str
    history: list[dict[str, Any]]
    reasoning: dict[str, Any]
    recommendations: list[dict[str, Any]]


def load_user_page(warehouse: Warehouse, date: str, user_id: str, top_k: int) -> UserPage:
    """Read a user's page. Raises NotReadyError when the date or the user is not there."""
    published = warehouse.partitions("runs", "date")
    if date not in published:
        raise NotReadyError(
            f"{date} is not published in {warehouse.path()} ({told_days(published)}); "
            f"r2ec-cli score --date {date} makes it"
        )
    return with_views(warehouse, lambda views: _user_page(views, date, user_id, top_k))


def _user_page(views: "duckdb.DuckDBPyConnection", date: str, user_id: str, top_k: int) -> UserPage:
    def rows(text: str, **values: str) -> list[dict[str, Any]]:
        file = sql_files.parse_sql("show", "show", text)
        found = run_query(views, file, {"date": date, "user_id": user_id, **values})
        return list(found.to_pylist())

    history, reasoning = rows(HISTORY_SQL), rows(REASONING_SQL)
    if not reasoning:
        where = "and no event before its end" if not history else "although there is a history"
        raise NotReadyError(
            f"user {user_id!r} has no recommendations on {date}, {where}; "
            "check the id (it is the shop's own, case matters)"
        )
    return UserPage(
        date=date,
        user_id=user_id,
        history=history,
        reasoning=reasoning[0],
        recommendations=rows(LIST_SQL, top_k=str(top_k)),
    )


def print_user_page(page: UserPage) -> None:
    """Print the page: title, history, reasoning, recommendations."""
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.text import Text

    out = screen.console()
    reason = page.reasoning
    out.print()
    out.print(Text(f"{screen.printable(page.user_id)} on {page.date}", style="bold"))
    out.print(Text(f"run {reason['run_id']}, model {reason['model']}", style="dim"))
    out.print(Text("\nHistory, oldest first", style="bold"))
    out.print(_history_table(page))
    ending = told_ending(reason["finish_reason"], reason["reasoning_tokens"], reason["status"])
    text = screen.printable(reason["reasoning"] or reason["error"] or "") or "(nothing written)"
    out.print(
        Panel(
            Text(text),
            title=Text("Reasoning", style="bold"),
            subtitle=Text(ending, style="dim"),
            title_align="left",
            subtitle_align="right",
            border_style="cyan" if reason["status"] != "error" else "red",
        )
    )
    out.print(Text("\nRecommended, best first", style="bold"))
    out.print(_recommendations_table(page))
    out.print(Padding("", 0))


def _history_table(page: UserPage) -> Any:
    table = _table(("When", "right"), ("Rating", "left"), ("Item", "left"))
    end = datetime.fromisoformat(page.date).replace(tzinfo=UTC) + timedelta(days=1)
    for event in page.history:
        table.add_row(_ago(event["event_time"], end), _stars(event["rating"]), _item(event))
    return table


def _recommendations_table(page: UserPage) -> Any:
    table = _table(("#", "right"), ("Score", "right"), ("Item", "left"))
    for row in page.recommendations:
        table.add_row(str(row["rank"]), f"{row['score']:.3f}", _item(row))
    return table


def _table(*columns: tuple[str, str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in columns:
        wraps = name == "Item"
        table.add_column(name, justify=justify, no_wrap=not wraps)  # type: ignore[arg-type]
    return table


def _item(row: dict[str, Any]) -> Any:
    from rich.text import Text

    title = screen.printable(row["title"] or row["item_id"] or "(no longer in the catalog)")
    store = screen.printable(row["store"] or "")
    text = Text(title)
    if store.casefold() not in title.casefold():
        text.append(f"  {store}", style="dim")
    return text


def _ago(moment: datetime | None, end: datetime) -> str:
    if moment is None:
        return ""
    days = (end - moment).days
    return {0: "today", 1: "yesterday"}.get(days, f"{days} days ago")


def _stars(rating: float | None) -> str:
    """A rating of up to five in stars, to the half; of another scale its number."""
    if rating is None:
        return ""
    if not 0 <= rating <= STARS:
        return f"{rating:g}"
    whole, half = divmod(math.floor(2 * rating + 0.5), 2)
    return ("★" * whole + "½" * half).ljust(STARS, "·")
