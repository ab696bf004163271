"""Rows of `rec_head`: items put through the backbone, one hidden state each.

Shapes: I items, H hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from r2ec.model.dual_head import DualHeadModel
from r2ec.text.tokens import pad_right


def embed_items(
    model: DualHeadModel,
    rows: Sequence[Sequence[int]],
    *,
    pad_id: int,
    batch_tokens: int = 16_384,
) -> Tensor:
    """Hidden state at the last token of each row (the marker's), float32 (I, H), no gradient.

    `rows` are item ids with the marker at the end (`PromptEncoder.item_ids`). Rows go through in
    order of length, in batches of at most `batch_tokens` padded tokens; the result is in the given
    order.
    """
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    embeddings_IH = torch.empty(len(rows), model.hidden_size, dtype=torch.float32)
    with torch.no_grad():
        for batch in batches_by_tokens(order, rows, batch_tokens):
            states_BH = encode_rows(model, [rows[row] for row in batch], pad_id=pad_id)
            embeddings_IH[batch] = states_BH.float().cpu()
    return embeddings_IH


def encode_rows(model: DualHeadModel, rows: Sequence[Sequence[int]], *, pad_id: int) -> Tensor:
    """Hidden state at the last token of each row, (B, H), with gradient."""
    ids, mask = pad_right(rows, pad_id)
    return model.last_hidden(
        torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device)
    )


def batches_by_tokens(
    order: Sequence[int], rows: Sequence[Sequence[int]], batch_tokens: int
) -> list[list[int]]:
    """Cut `order` (by length) into batches of at most `batch_tokens` padded tokens each."""
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * len(rows[row]) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
