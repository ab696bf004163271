"""The text of an item, cleaned: HTML to text, Unicode kept, whitespace folded, lengths bounded.

Standard library only: executors run this. An item's text never holds a lifetime statistic (mean
rating, number of ratings): those count events of the test period.
"""

import ast
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
_PRICE_CHARS = 40  # a longer text is no price but a piece of a page
_LIST_CHARS = 1 << 20
_NUMBER = re.compile(r"\d[\d.,]*\d|\d|\.\d+")
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
_ENTITY = r"(?:[A-Za-z][A-Za-z0-9]{1,31}|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});"
_TWICE_ESCAPED = re.compile(f"&amp;(?={_ENTITY})")
_BARE_AMPERSAND = re.compile(f"&(?!{_ENTITY})")
# Marks that turn the direction of what follows, or show nothing: they only mislead a reader.
_MISLEADING = frozenset("\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


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
    if len(text) < len(raw) and text.rfind("<") > text.rfind(">"):
        text = text[: text.rfind("<")]  # half a tag is no text
    if "<" in text or "&" in text:
        text = _html_text(text)
    text = unicodedata.normalize("NFC", "".join(map(_visible, text)))
    text = " ".join(text.split())
    if len(text) <= max_chars:
        return text
    head, space, _ = text[: max_chars + 1].rpartition(" ")
    return head if space else text[:max_chars]


def texts(raw: str | None, separator: str | None = None) -> list[str]:
    """The texts of a raw value: a list (nested or not), parts at a separator, or itself.

    A list is one of JSON, or as Python writes it.
    """
    if raw is None or not raw.strip():
        return []
    found = _list(raw.strip())
    if found is not None:
        return list(_flat(found))
    if separator:
        return [part for part in raw.split(separator) if part.strip()]
    return [raw]


def parse_price(raw: str | None) -> float | None:
    """The first number of `12.99`, `$1,299.00`, `from 5.99` or `1.299,00 €`; None for other texts.

    Of two kinds of marks the last one begins the cents; a comma alone does unless three digits
    follow it, a point alone always, unless there are several.
    """
    text = (raw or "").strip()
    found = _NUMBER.search(text)
    if found is None or "-" in text[: found.start()] or len(text) > _PRICE_CHARS:
        return None
    value = float(_with_point(found.group()))
    return value if value <= LARGEST_PRICE else None


def _with_point(number: str) -> str:
    """A number with marks for thousands or cents as Python reads it."""
    if number.isdecimal():
        return number
    mark = max(".,", key=number.rfind)
    other = "," if mark == "." else "."
    whole, _, cents = number.rpartition(mark)
    is_thousands = mark in whole or (mark == "," and len(cents) == 3 and other not in whole)
    whole = whole.replace(other, "").replace(mark, "")
    return f"{whole}{'' if is_thousands else '.'}{cents}"


def _cleaned(values: list[str], max_chars: int) -> list[str]:
    cleaned = (clean(value, max_chars) for value in values)
    return [value for value in cleaned if value]


def _list(text: str) -> list[object] | None:
    """The list that a text spells; None for any other text: a title may begin with a bracket."""
    if not (text.startswith("[") and text.endswith("]")) or len(text) > _LIST_CHARS:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return found if isinstance(found, list) else None
    return None


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
    # Code points that are not assigned yet are kept (new emoji), those that never will be are not.
    is_never = kind == "Cn" and (ord(char) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(char) <= 0xFDEF)
    return "" if kind == "Cs" or is_never or char in _MISLEADING else char


def _html_text(text: str) -> str:
    """Tags out, entities read; an ampersand that begins no entity is one (`R&D`, `this&not that`).

    Entities escaped twice, as scraped pages have them, are read as if escaped once.
    """
    text = _BARE_AMPERSAND.sub("&amp;", _TWICE_ESCAPED.sub("&", _TWICE_ESCAPED.sub("&", text)))
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
