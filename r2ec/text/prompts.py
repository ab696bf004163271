"""Histories and items put into words: pure strings, no tokenizer.

`TEMPLATE_VERSION` changes whenever any wording here does: it is part of a model's identity.
Text that comes from a shop is neutralised here, at the point where prompts are built, so that it
can never spell the answer marker or a special token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from r2ec.catalog import CatalogItem
from r2ec.tables import History

TEMPLATE_VERSION = "1"

DAY = 86_400_000_000
_AGES = ((365 * DAY, "year"), (30 * DAY, "month"), (7 * DAY, "week"), (DAY, "day"))


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTemplate:
    """Lengths of the prompt's parts and the strings that shop text must not spell.

    `forbidden` holds the answer marker and every special token of the tokenizer.
    """

    marker: str
    forbidden: tuple[str, ...]
    history_items: int
    title_chars: int
    description_chars: int


def user_prompt(template: PromptTemplate, history: History, items: Sequence[CatalogItem]) -> str:
    """The request of one user: what was bought, oldest first, when, and how it was rated.

    `items` holds the text of each history item, in the order of the history.
    """
    lines = [
        f"{age(history.now - time)}: {_title(template, item)}{_rating(rating)}"
        for item, rating, time in zip(items, history.rating, history.time, strict=True)
    ][-template.history_items :]
    return (
        "Bought so far, oldest first:\n"
        + "\n".join(lines)
        + f"\nThink briefly about what comes next, then write {template.marker}"
    )


def reads_the_same(history: History, then: int, history_items: int) -> bool:
    """Whether the prompt of a history would have had the same words at the time `then`.

    Of a prompt only the ages depend on the time. `then` is in microseconds, `history_items` that
    of the template.
    """
    times = history.time[-history_items:]
    return all(age(history.now - time) == age(then - time) for time in times)


def item_prompt(template: PromptTemplate, item: CatalogItem) -> str:
    """One item in words: title and whatever else the catalog knows of it."""
    fields = (
        ("Item", _title(template, item)),
        ("Brand", _clean(template, item.store, template.title_chars)),
        ("Category", _clean(template, item.category, template.title_chars)),
        ("Price", "" if item.price is None else f"{item.price:.2f}"),
        ("About", _clean(template, item.description, template.description_chars)),
    )
    return "\n".join(f"{name}: {value}" for name, value in fields if value)


def age(microseconds: int) -> str:
    """How long ago, in the largest whole unit: `today`, `3 days ago`, `2 years ago`."""
    for unit, name in _AGES:
        count = microseconds // unit
        if count >= 1:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "today"


def neutralise(text: str, forbidden: Sequence[str]) -> str:
    """Break every forbidden string in `text` by a blank after its first character.

    Repeated until none is left, so that a break cannot spell another forbidden string. Forbidden
    strings of one character are taken out instead.
    """
    while True:
        found = next((string for string in forbidden if string and string in text), None)
        if found is None:
            return text
        text = text.replace(found, f"{found[0]} {found[1:]}" if len(found) > 1 else "")


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, cut at the last blank where there is one; 0 gives nothing."""
    if len(text) <= limit:
        return text
    head = text[: limit + 1]
    cut = head.rfind(" ")
    return head[: cut if cut > limit // 2 else limit].rstrip()


def _clean(template: PromptTemplate, text: str, limit: int) -> str:
    return neutralise(shorten(" ".join(text.split()), limit), template.forbidden)


def _title(template: PromptTemplate, item: CatalogItem) -> str:
    return _clean(template, item.title, template.title_chars) or "untitled item"


def _rating(rating: float | None) -> str:
    return "" if rating is None else f" (rated {rating:g})"
