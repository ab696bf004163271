"""Prompts are pure strings; shop text in them spells neither marker nor special token."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ec.catalog import CatalogItem
from r2ec.tables import History
from r2ec.text.prompts import (
    DAY,
    PromptTemplate,
    age,
    item_prompt,
    neutralise,
    shorten,
    user_prompt,
)

TEMPLATE = PromptTemplate(
    marker="<answer>",
    forbidden=("<answer>", "<|im_end|>", "<|im_start|>"),
    history_items=2,
    title_chars=30,
    description_chars=20,
)
ITEM = CatalogItem(
    item_index=0,
    item_id="B1",
    title="Halmont Printer",
    description="",
    category="Office > Printers",
    store="Halmont",
    price=99.0,
    text_hash="",
)


def history(times: tuple[int, ...], ratings: tuple[float | None, ...], now: int) -> History:
    return History(user_id="u", item_index=(0,) * len(times), rating=ratings, time=times, now=now)


def test_a_user_prompt_tells_when_what_and_how_it_was_rated_oldest_first() -> None:
    other = replace(ITEM, title="Ink für alle")
    text = user_prompt(TEMPLATE, history((0, 20 * DAY), (4.5, None), 23 * DAY), [ITEM, other])
    assert text.splitlines() == [
        "Bought so far, oldest first:",
        "3 weeks ago: Halmont Printer (rated 4.5)",
        "3 days ago: Ink für alle",
        "Think briefly about what comes next, then write <answer>",
    ]


def test_only_the_last_items_of_a_long_history_are_told() -> None:
    items = [replace(ITEM, title=f"thing {number}") for number in range(4)]
    text = user_prompt(TEMPLATE, history((1, 2, 3, 4), (None,) * 4, 5), items)
    assert "thing 1" not in text
    assert text.index("thing 2") < text.index("thing 3")


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (0, "today"),
        (1, "1 day ago"),
        (13, "1 week ago"),
        (65, "2 months ago"),
        (800, "2 years ago"),
    ],
)
def test_ages_are_told_in_the_largest_whole_unit(days: int, words: str) -> None:
    assert age(days * DAY + 5) == words


def test_an_item_prompt_leaves_out_what_the_catalog_does_not_know() -> None:
    bare = replace(ITEM, title="", category="", store="", price=None)
    assert item_prompt(TEMPLATE, bare) == "Item: untitled item"
    assert item_prompt(TEMPLATE, ITEM).splitlines() == [
        "Item: Halmont Printer",
        "Brand: Halmont",
        "Category: Office > Printers",
        "Price: 99.00",
    ]


def test_texts_are_cut_at_a_blank() -> None:
    assert shorten("one two three", 9) == "one two"
    assert shorten("onetwothree", 5) == "onetw"
    assert shorten("short", 9) == "short"
    assert shorten("short", 0) == ""


@given(st.text(alphabet="<answer> |im_endstart", max_size=60))
def test_neutralised_text_holds_no_forbidden_string(text: str) -> None:
    clean = neutralise(text, TEMPLATE.forbidden)
    assert not any(string in clean for string in TEMPLATE.forbidden)
    assert clean.replace(" ", "") == text.replace(" ", "")


def test_harmless_text_is_left_as_it_is() -> None:
    assert neutralise("größer < kleiner > Maß", TEMPLATE.forbidden) == "größer < kleiner > Maß"
