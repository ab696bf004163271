"""Words of a reasoning that name items: whole texts, longest stretches, any language."""

from hypothesis import given
from hypothesis import strategies as st

from r2ec.report.marks import common_words, mark_names

TITLES = [(1, "Red Lamp, Small"), (2, "Oak Desk 120 cm"), (3, "Small Oak Lamp")]
text = st.text(alphabet="aRedLmpOk ,.'-<&é\n", max_size=40)


@given(text, st.lists(text, max_size=4), st.lists(text, max_size=3))
def test_the_segments_joined_are_the_text(
    reasoning: str, titles: list[str], common: list[str]
) -> None:
    ranked = list(enumerate(titles, start=1))
    segments = mark_names(reasoning, ranked, frozenset(common))
    assert "".join(piece for piece, _ in segments) == reasoning
    for piece, ranks in segments:
        for rank in ranks:
            assert piece.split()[0].strip(",.'-<&").casefold() in ranked[rank - 1][1].casefold()


def test_a_stretch_of_words_names_the_titles_in_which_it_stands() -> None:
    assert mark_names("wants a red LAMP and an oak thing", TITLES) == [
        ("wants a ", ()),
        ("red LAMP", (1,)),
        (" and an ", ()),
        ("oak", (2, 3)),
        (" thing", ()),
    ]


def test_the_longest_stretch_counts() -> None:
    assert mark_names("small oak lamp", TITLES) == [("small oak lamp", (3,))]


def test_common_and_short_words_and_numbers_name_nothing_alone() -> None:
    common = frozenset({"small"})
    assert mark_names("small 120 cm", TITLES, common) == [("small 120 cm", ())]
    assert mark_names("oak desk 120 cm", TITLES, common)[0] == ("oak desk 120 cm", (2,))


def test_common_words_are_those_of_more_than_two_titles_and_one_in_twenty() -> None:
    titles = [f"Lamp {number}" for number in range(98)] + ["Lamp Oak", "Desk desk DESK"]
    assert common_words(titles) == {"lamp"}
    assert common_words([]) == frozenset()
    assert common_words(["a", "b a", "b a"]) == {"a"}


def test_words_of_other_languages_and_with_marks_inside_count() -> None:
    assert mark_names("aime l'été", [(1, "Robe L'Été")]) == [("aime ", ()), ("l'été", (1,))]
    assert mark_names("любит чайник", [(4, "Красный ЧАЙНИК")]) == [("любит ", ()), ("чайник", (4,))]


def test_nothing_written_and_no_titles() -> None:
    assert mark_names("", TITLES) == []
    assert mark_names("a lamp", []) == [("a lamp", ())]
