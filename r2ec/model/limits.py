"""What a backbone bounds: the rows of its vocabulary, and positions that it learned one by one."""

from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from r2ec.errors import UsageError
from r2ec.tables import CatalogItem
from r2ec.text.tokens import PromptEncoder

# Tables of positions have some more rows than there are positions (OPT: 2).
_SPARE_ROWS = 8
# Fewer tokens than these hold no request. A GPU feeds some tokens more than a row keeps.
_SMALLEST_PROMPT = 32
_FED_AHEAD = 8


def learned_positions(causal_lm: Any) -> int | None:
    """How many tokens a row may have where each position has a row of weights; else None.

    Rotated and biased positions have no such end: they are only less well trained behind it.
    """
    positions = getattr(causal_lm.config, "max_position_embeddings", None)
    if not isinstance(positions, int):
        return None
    words = causal_lm.get_input_embeddings()
    tables = [module for module in causal_lm.modules() if isinstance(module, nn.Embedding)]
    sizes = [table.num_embeddings for table in tables if table is not words]
    has_learned = any(positions <= size <= positions + _SPARE_ROWS for size in sizes)
    return positions if has_learned else None


def fit_prompts(
    encoder: PromptEncoder, positions: int | None, reasoning_tokens: int, path: str
) -> PromptEncoder:
    """The encoder with prompts so short that a reasoning and the marker fit behind them.

    Raises `UsageError` where `positions` leave no room for a prompt.
    """
    if positions is None:
        return encoder
    behind = reasoning_tokens + len(encoder.marker_ids) + _FED_AHEAD
    room = positions - behind
    if room < _SMALLEST_PROMPT:
        raise UsageError(
            f"{path} has learned {positions} positions, and a reasoning of {reasoning_tokens}"
            f" tokens with its marker leaves {max(0, room)} for the prompt; lower"
            " recpo.sampling.max_new_tokens and evaluation.reasoning_budget, or use another model"
        )
    return replace(encoder, max_prompt_tokens=min(encoder.max_prompt_tokens, room))


def check_vocabulary(
    causal_lm: Any, tokenizer: PreTrainedTokenizerBase, encoder: PromptEncoder, path: str
) -> None:
    """Raise `UsageError` for tokens that prompts may hold and the model has no row for.

    Special tokens that no prompt of ours holds may lie beyond: text cannot spell them.
    """
    rows = causal_lm.get_input_embeddings().num_embeddings
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    words = [place for text, place in tokenizer.get_vocab().items() if text not in special]
    highest = max([*words, *encoder.item_ids(_ANY_ITEM)])
    if highest >= rows:
        raise UsageError(
            f"{path}: the tokenizer writes token {highest}, but the model has {rows} rows in its"
            " vocabulary: they do not belong together; copy the model's own tokenizer, or resize"
            " the model (resize_token_embeddings)"
        )


_ANY_ITEM = CatalogItem(
    item_index=0,
    item_id="",
    title="item",
    description="",
    category="",
    store="",
    price=None,
    text_hash="",
)
