"""The text of an item, cleaned: HTML to text, Unicode kept, whitespace folded, lengths bounded.

Standard library only: executors run this. An item's text never holds a lifetime statistic (mean
rating, number of ratings): those count events of the test period.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from html.parser import HTMLParser

TITLE_CHARS, DESCRIPTION_CHARS, SHORT_CHARS = 512, 4096, 256
LARGEST_PRICE = 1e9
_RAW_CHARS_PER_CHAR = 16  # markup is rarely more than this many times its text
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_INLINE_NAMES = """
    a abbr b big cite code del em font i ins kbd label mark q s samp small span strike strong sub
    sup tt u var wbr
"""
_BLOCK_NAMES = """
    address article aside blockquote body br center dd details div dl dt figcaption figure footer
    form h1 h2 h3 h4 h5 h6 head header hr html iframe img input li link main meta nav ol option p
    pre script section select source style summary table tbody td tfoot th thead title tr ul video
"""
_INLINE = frozenset(_INLINE_NAMES.split())
_TAGS = _INLINE | frozenset(_BLOCK_NAMES.split())
_UNREAD = frozenset({"script", "style"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemText:
    """The text columns of the catalog for one item; a missing one is None."""

    title: str | None
    description: str | None
    category: str | None
    store: str | None
    price: float | None

    def text_hash(self) -> str:
        """SHA-256 of the five columns in one fixed text form."""
        parts = [self.title, self.description, self.category, self.store, self.price]
        form = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(form.encode()).hexdigest()


def item_text(
    *,
    title: str | None = None,
    description: str | None = None,
    features: str | None = None,
    categories: str | None = None,
    main_category: str | None = None,
    store: str | None = None,
    price: str | None = None,
    categories_separator: str | None = None,
) -> ItemText:
    """An item's text from the raw values of its metadata; lists come as JSON text.

    The description is the list of descriptions, else that of the features, in the order given; the
    category is the list of categories (or the parts of a text at `categories_separator`), else the
    main category.
    """
    about = " ".join(texts(description)) or " ".join(texts(features))
    path = " > ".join(_cleaned(texts(categories, categories_separator), SHORT_CHARS))
    return ItemText(
        title=clean(" ".join(texts(title)), TITLE_CHARS) or None,
        description=clean(about, DESCRIPTION_CHARS) or None,
        category=path or clean(main_category or "", SHORT_CHARS) or None,
        store=clean(store or "", SHORT_CHARS) or None,
        price=parse_price(price),
    )


def clean(raw: str, max_chars: int) -> str:
    """Plain text of at most `max_chars` characters, cut on a word boundary where there is one."""
    text = raw[: max_chars * _RAW_CHARS_PER_CHAR]
    if "<" in text or "&" in text:
        text = _html_text(text)
    text = unicodedata.normalize("NFC", text)
    text = " ".join("".join(map(_visible, text)).split())
    if len(text) <= max_chars:
        return text
    head, space, _ = text[: max_chars + 1].rpartition(" ")
    return head if space else text[:max_chars]


def texts(raw: str | None, separator: str | None = None) -> list[str]:
    """The texts of a raw value: a JSON list (nested or not), parts at a separator, or itself."""
    if raw is None or not raw.strip():
        return []
    if raw.lstrip().startswith("["):
        try:
            return list(_flat(json.loads(raw)))
        except ValueError:
            pass  # a title may begin with a bracket
    if separator:
        return [part for part in raw.split(separator) if part.strip()]
    return [raw]


def parse_price(raw: str | None) -> float | None:
    """The first number of `12.99`, `$1,299.00` or `from 5.99`; None for anything else."""
    found = _NUMBER.search(raw or "")
    if found is None or "-" in (raw or "")[: found.start()]:
        return None
    value = float(found.group().replace(",", ""))
    return value if value <= LARGEST_PRICE else None


def _cleaned(values: list[str], max_chars: int) -> list[str]:
    cleaned = (clean(value, max_chars) for value in values)
    return [value for value in cleaned if value]


def _flat(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from _flat(element)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def _visible(char: str) -> str:
    kind = unicodedata.category(char)
    if char.isspace() or kind == "Cc":
        return " "
    return "" if kind in ("Cs", "Cn") else char


def _html_text(text: str) -> str:
    reader = _HtmlText()
    reader.feed(text)
    reader.close()
    return "".join(reader.parts)


class _HtmlText(HTMLParser):
    """Collects the text between known tags; what only looks like a tag stays text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unread = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _TAGS:
            self.parts.append(self.get_starttag_text() or "")
        elif tag not in _INLINE:
            self.parts.append(" ")
        self._unread += tag in _UNREAD

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parts.append(" " if tag in _TAGS else self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in _INLINE:
            self.parts.append(" ")
        self._unread = max(0, self._unread - (tag in _UNREAD))

    def handle_data(self, data: str) -> None:
        if not self._unread:
            self.parts.append(data)
