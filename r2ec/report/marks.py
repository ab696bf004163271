"""Which words of a reasoning name items of the list that came of it."""

import re
from collections import Counter
from collections.abc import Sequence

# Runs of letters and digits, marks that belong to them included: d'Addario, 9-42, Wi-Fi.
_WORD = re.compile(r"\w+(?:[-'’.&+]\w+)*", re.UNICODE)
_SHORTEST_ALONE = 3
_COMMON_SHARE = 0.05

Segment = tuple[str, tuple[int, ...]]


def common_words(titles: Sequence[str]) -> frozenset[str]:
    """The words, case aside, that more than two titles, one in twenty, have: they name no item."""
    count: Counter[str] = Counter()
    for title in titles:
        count.update({match.group().casefold() for match in _WORD.finditer(title)})
    most = max(2, _COMMON_SHARE * len(titles))
    return frozenset(word for word, number in count.items() if number > most)


def mark_names(
    text: str, titles: Sequence[tuple[int, str]], common: frozenset[str] = frozenset()
) -> list[Segment]:
    """The text cut into segments, each with the ranks of the items that its words name, or none.

    Words name an item where they stand in a row in its title, and at least one of them is not in
    `common` (of that catalog, so in any language), not a number and not shorter than three letters;
    of several stretches the longest counts. Letter case does not. The segments joined are the text.
    """
    words = [(match.group().casefold(), *match.span()) for match in _WORD.finditer(text)]
    places = [(rank, _places(title)) for rank, title in titles]
    segments: list[Segment] = []
    done, place = 0, 0
    while place < len(words):
        length, ranks = _longest(words, place, places, common)
        if not length:
            place += 1
            continue
        begin, end = words[place][1], words[place + length - 1][2]
        if begin > done:
            segments.append((text[done:begin], ()))
        segments.append((text[begin:end], ranks))
        done, place = end, place + length
    if done < len(text):
        segments.append((text[done:], ()))
    return segments


def _places(title: str) -> tuple[list[str], dict[str, list[int]]]:
    words = [match.group().casefold() for match in _WORD.finditer(title)]
    places: dict[str, list[int]] = {}
    for number, word in enumerate(words):
        places.setdefault(word, []).append(number)
    return words, places


def _longest(
    words: Sequence[tuple[str, int, int]],
    place: int,
    titles: Sequence[tuple[int, tuple[list[str], dict[str, list[int]]]]],
    common: frozenset[str],
) -> tuple[int, tuple[int, ...]]:
    """How many words from `place` on stand in a row in a title, and the ranks of such titles."""
    best, ranks = 0, list[int]()
    for rank, (title, places) in titles:
        length = max(
            (_common_words(words, place, title, at) for at in places.get(words[place][0], ())),
            default=0,
        )
        if length > best:
            best, ranks = length, [rank]
        elif length and length == best:
            ranks.append(rank)
    if best == 0 or all(_says_little(words[place + number][0], common) for number in range(best)):
        return 0, ()
    return best, tuple(ranks)


def _common_words(
    words: Sequence[tuple[str, int, int]], place: int, title: Sequence[str], at: int
) -> int:
    length = 0
    while (
        place + length < len(words)
        and at + length < len(title)
        and words[place + length][0] == title[at + length]
    ):
        length += 1
    return length


def _says_little(word: str, common: frozenset[str]) -> bool:
    return len(word) < _SHORTEST_ALONE or word in common or not any(c.isalpha() for c in word)
