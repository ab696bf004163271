"""What a user's row of the contrastive stage says before the marker."""

import pytest

from r2ec.recpo.contrastive import build_user_row
from tests.factories.models import examples_of, small_catalog, small_model

CATALOG = small_catalog()


def _store(item_index: int) -> str:
    return CATALOG.items[item_index].store


EXAMPLES = [
    example
    for example in examples_of(CATALOG, 40)
    if _store(example.target_index) and _store(example.history.item_index[-1])
]


def reasonings(reasoning_share: float, rationale_share: float) -> list[str]:
    """The text between prompt and marker of each example's row."""
    _, encoder = small_model()
    texts = []
    for example in EXAMPLES:
        row = build_user_row(
            encoder,
            CATALOG,
            example,
            seed=(0, 0),
            reasoning_share=reasoning_share,
            rationale_share=rationale_share,
            history_dropout=0.0,
        )
        prompt = encoder.user_ids(example.history, CATALOG)
        assert row.ids[: len(prompt)] == prompt
        assert row.ids[-len(encoder.marker_ids) :] == list(encoder.marker_ids)
        assert row.first_language == (len(row.ids) if reasoning_share == 0 else len(prompt))
        texts.append(encoder.tokenizer.decode(row.ids[len(prompt) : -len(encoder.marker_ids)]))
    return texts


@pytest.mark.parametrize(("rationale_share", "about_target"), [(0.0, False), (1.0, True)])
def test_a_reasoning_is_about_the_last_item_and_a_rationale_about_the_target(
    rationale_share: float, about_target: bool
) -> None:
    for example, text in zip(EXAMPLES, reasonings(1.0, rationale_share), strict=True):
        about = example.target_index if about_target else example.history.item_index[-1]
        assert text.strip().endswith(f"likes {_store(about)}.")


def test_without_a_share_of_reasonings_a_row_is_the_prompt_and_the_marker() -> None:
    assert set(reasonings(0.0, 1.0)) == {""}


def test_some_reasonings_are_rationales() -> None:
    mixed, last, target = (reasonings(1.0, share) for share in (0.5, 0.0, 1.0))
    assert all(text in pair for text, *pair in zip(mixed, last, target, strict=True))
    assert mixed not in (last, target)
