"""The reasoning that people read: without the marker, whole or cut short."""

import pytest

from r2ec.text.tokens import without_cut_marker
from tests.factories.models import MARKER, small_model


def reasoning(text: str, finish_reason: str) -> str:
    _, encoder = small_model()
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    return encoder.reasoning_text(ids, finish_reason)


@pytest.mark.parametrize("cut", range(1, len(MARKER)))
def test_a_marker_cut_short_by_the_budget_is_not_shown(cut: int) -> None:
    assert reasoning(f"likes red ink. {MARKER[:cut]}", "length") == "likes red ink."
    assert reasoning(f"likes red ink.{MARKER[:cut]}", "length") == "likes red ink."


def test_what_only_looks_like_a_marker_stays() -> None:
    for text in ("ink < 3, paper", "an <answer of paper", "<ink", "the answer>", "answer"):
        assert reasoning(text, "length") == text
    assert reasoning("ink <ans", "eos") == "ink <ans", "the policy ended there by itself"
    assert reasoning(f"ink {MARKER}", "marker") == "ink"
    assert reasoning(f"ink {MARKER} lens <", "length") == "ink"


def test_the_longest_beginning_of_a_marker_is_taken_away_and_only_once() -> None:
    assert without_cut_marker("a <<", "<<end>>") == "a "
    assert without_cut_marker("a <<<", "<<end>>") == "a <"
    assert without_cut_marker("", "<answer>") == ""
