import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ec.etl.item_text import DESCRIPTION_CHARS, TITLE_CHARS, clean, item_text, parse_price, texts

UNICODE = (
    "Caf\u00e9 \u2014 \u6587\u5177 \U0001f58a\ufe0f \U0001f468\u200d\U0001f469\u200d\U0001f467"
)


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("<p>Ink &amp; paper</p><p>for <b>home</b></p>", "Ink & paper for home"),
        ("a<br>b<br/>c", "a b c"),
        ("bold<b>er</b>", "bolder"),
        ("<script>alert('x')</script>Pen<style>p{}</style>", "Pen"),
        ("5 &lt; 6 and x<y and z>w", "5 < 6 and x<y and z>w"),
        ("I <3 pens", "I <3 pens"),
        (UNICODE, UNICODE),
        ("Cafe\u0301", "Caf\u00e9"),
        ("a\u0000b\u0007c\u00a0\t\n d\u2028e", "a b c d e"),
        ("  ", ""),
        (
            "&lt;b&gt; &quot;x&quot; &#39;y&#x27; caf&eacute; &#8212; &nbsp;z",
            "<b> \"x\" 'y' café — z",
        ),
        ("AT&amp;amp;T &amp;quot;x&amp;quot; &amp;amp;#39;", 'AT&T "x" \''),
        (
            "R&D, Salt&pepper, this&not that, Q&para x&y;",
            "R&D, Salt&pepper, this&not that, Q&para x&y;",
        ),
        ("&#0;&#1;&#150;&bogus;", "\ufffd\u2013&bogus;"),
        ("<!-- no --><p title='a>b'>x</p ><unknown>", "x <unknown>"),
        ("abc\u202edcb\u202c\ufeff \u05d0", "abcdcb \u05d0"),
        ("e\ufeff\u0301 \ufdd0\uffff\U0001ffff", "\u00e9"),
        ("new \U0001fae9 emoji \u200d", "new \U0001fae9 emoji \u200d"),
    ],
)
def test_markup_becomes_text_and_unicode_is_kept(raw, plain):
    assert clean(raw, 100) == plain


def test_long_text_is_cut_on_a_word_boundary():
    assert clean("one two three", 9) == "one two"
    assert clean("one two three", 7) == "one two"
    assert clean("unbreakable", 5) == "unbre"


def test_a_megabyte_of_title_stays_within_its_bound():
    title = item_text(title="word " * 200_000).title
    assert title is not None
    assert len(title) <= TITLE_CHARS


@given(st.text(max_size=300), st.integers(min_value=1, max_value=80))
def test_cleaned_text_is_bounded_folded_and_without_control_characters(raw, max_chars):
    text = clean(raw, max_chars)
    assert len(text) <= max_chars
    assert text == " ".join(text.split())
    assert not any(unicodedata.category(char) == "Cc" for char in text)
    assert unicodedata.is_normalized("NFC", text)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<&"), max_size=200))
def test_cleaning_text_without_markup_twice_changes_nothing(raw):
    assert clean(clean(raw, 100), 100) == clean(raw, 100)


@given(st.text(max_size=300), st.integers(min_value=1, max_value=80))
def test_a_long_text_is_cut_between_words_where_it_can_be(raw, max_chars):
    whole, text = clean(raw, 10_000), clean(raw, max_chars)
    assert whole.startswith(text)
    rest = whole[len(text) :]
    if rest:
        assert rest.startswith(" ") or " " not in text
        assert len(text) + len(rest.split()[0]) + 1 > max_chars


def test_markup_that_is_cut_off_leaves_no_half_tag():
    raw = "word " * 90 + '<a href="' + "x" * 100_000 + '">end</a>'
    assert clean(raw, 500) == ("word " * 90).strip()


def test_lists_as_python_writes_them_are_lists():
    assert texts("['Office', \"Pens 'n' ink\"]") == ["Office", "Pens 'n' ink"]
    assert texts("[['A', 'B'], None]") == ["A", "B"]
    assert texts("[__import__('os')]") == ["[__import__('os')]"]
    assert texts("[" * 5000 + "]" * 5000)


def test_lists_keep_their_order_and_their_repeats():
    raw = '["second first", "b", "a", "b", ["nested", 3]]'
    assert texts(raw) == ["second first", "b", "a", "b", "nested", "3"]
    assert texts("[not a list") == ["[not a list"]
    assert texts("Drama|Romance", "|") == ["Drama", "Romance"]


def test_description_falls_back_on_features_and_category_on_the_main_one():
    both = item_text(description='["About"]', features='["F"]', categories='["A","B &amp; C"]')
    assert (both.description, both.category) == ("About", "A > B & C")
    spare = item_text(description="[]", features='["F1","F2"]', categories="[]", main_category="M")
    assert (spare.description, spare.category) == ("F1 F2", "M")
    long = item_text(description="word " * 5_000).description
    assert long is not None
    assert len(long) <= DESCRIPTION_CHARS


@pytest.mark.parametrize(
    ("raw", "price"),
    [
        ("12.99", 12.99),
        ("$1,299.00", 1299.0),
        ("from 5.99", 5.99),
        ("5", 5.0),
        (".5", 0.5),
        ("1,299", 1299.0),
        ("1,299,000", 1299000.0),
        ("12,99 €", 12.99),
        ("1.299,00 €", 1299.0),
        ("1.299.000", 1299000.0),
        ("0,5", 0.5),
        ("None", None),
        ("-3", None),
        ("\u2014", None),
        (None, None),
        ("1e999", 1.0),
        ("$12.99 - $25.00", 12.99),
        (".a-box-inner{background-color:#fff} .a{margin:5px}", None),
    ],
)
def test_a_price_is_the_first_number_or_nothing(raw, price):
    assert parse_price(raw) == price


def test_the_hash_changes_with_each_column_and_with_nothing_else():
    base = {"title": "T", "description": "D", "categories": "C", "store": "S", "price": "1"}
    hashes = {item_text(**base).text_hash(), item_text(**base | {"title": "<b>T</b>"}).text_hash()}
    assert len(hashes) == 1
    for name in base:
        hashes.add(item_text(**base | {name: "2"}).text_hash())
    assert len(hashes) == 6
