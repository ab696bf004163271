"""What a backbone bounds: the rows of its vocabulary, and the positions of a row."""

from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from r2ec.catalog import CatalogItem
from r2ec.errors import UsageError
from r2ec.text.tokens import PromptEncoder

# Tables of positions have some more rows than there are positions (OPT: 2).
_SPARE_ROWS = 8
FED_AHEAD = 8  # tokens that a GPU may feed behind the end of a row, which need positions too


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


def trained_positions(config: Any) -> int | None:
    """How many tokens a row may have by the backbone's config; None where it does not say."""
    positions = getattr(config, "max_position_embeddings", None)
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if positions is None or not isinstance(scaling, dict):
        return positions
    # YaRN and its like stretch the positions that the model was trained with.
    trained, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    return max(positions, int(trained * factor)) if trained and factor else int(positions)


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
