"""Rows that hold a prompt once and several completions after it, and who may attend to whom.

A packed row is `prompt, completion 1, completion 2, ...`; every completion continues the prompt and
knows nothing of its neighbours. Positions start again after the prompt for each of them, so a
packed row computes what the expanded rows would, with the prompt paid for once.

Shapes: B packed rows, L tokens of the longest, N completions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PADDING = -1
_PROMPT = 0
_KINDS = {"full_attention", "sliding_attention"}
_FORMS = {"sdpa", "eager"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRows:
    """Ids (B, L), their positions, and their segments: 0 the prompt, 1, 2, ... completions, -1 not
    anything.

    `row_N` and `first_N` say in which row each completion lies, and at which place it begins;
    `prompt_N` how many tokens its prompt has.
    """

    ids_BL: Tensor
    positions_BL: Tensor
    segments_BL: Tensor
    row_N: list[int]
    first_N: list[int]
    prompt_N: list[int]


def pack_rows(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad_id: int
) -> PackedRows:
    """Pack completions; neighbours with equal prompts share a row. Raises `ValueError` if unequal
    in number, or a prompt is empty."""
    if len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts but {len(completions)} completions")
    rows: list[list[int]] = []
    positions: list[list[int]] = []
    segments: list[list[int]] = []
    row_N, first_N = [], []
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        if not prompt:
            raise ValueError("a prompt has no tokens")
        if number == 0 or prompt != prompts[number - 1]:
            rows.append(list(prompt))
            positions.append(list(range(len(prompt))))
            segments.append([_PROMPT] * len(prompt))
        row_N.append(len(rows) - 1)
        first_N.append(len(rows[-1]))
        rows[-1] += completion
        positions[-1] += range(len(prompt), len(prompt) + len(completion))
        segments[-1] += [segments[-1][-1] + 1] * len(completion)
    length = max((len(row) for row in rows), default=0)

    def padded(lists: list[list[int]], filler: int) -> Tensor:
        return torch.tensor([row + [filler] * (length - len(row)) for row in lists])

    return PackedRows(
        ids_BL=padded(rows, pad_id),
        positions_BL=padded(positions, 0),
        segments_BL=padded(segments, PADDING),
        row_N=row_N,
        first_N=first_N,
        prompt_N=[len(prompt) for prompt in prompts],
    )


def can_pack(config: Any) -> bool:
    """Whether this backbone's attention takes a mask of its own, with windows this file knows."""
    kinds = set(getattr(config, "layer_types", None) or ())
    chunked = getattr(config, "attention_chunk_size", None)
    return config._attn_implementation in _FORMS and kinds <= _KINDS and not chunked


def attention_masks(
    config: Any, positions_BL: Tensor, segments_BL: Tensor, dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """Mask (B, 1, L, L) of each kind of layer, in the form that `transformers` takes ready-made.

    A token sees its own segment and its prompt, up to its own position, within the window of a
    sliding layer. Padding sees itself, so that no row of the softmax is empty.
    """
    query_BL1, key_B1L = segments_BL.unsqueeze(2), segments_BL.unsqueeze(1)
    ahead_BLL = positions_BL.unsqueeze(2) - positions_BL.unsqueeze(1)
    related_BLL = (query_BL1 == key_B1L) | (key_B1L == _PROMPT)
    itself_LL = torch.eye(segments_BL.shape[1], dtype=torch.bool, device=segments_BL.device)
    full_BLL = (related_BLL & (ahead_BLL >= 0) & (query_BL1 != PADDING)) | itself_LL
    return allowed_masks(config, full_BLL, ahead_BLL, dtype)


def allowed_masks(
    config: Any, full_BQL: Tensor, ahead_BQL: Tensor, dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """Masks of each kind of layer from what a full layer may see; Q tokens ask, L are asked.

    `ahead_BQL` says how many positions a token lies after another.
    """
    full = _ready(config, full_BQL, dtype)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or (kinds and "sliding_attention" not in kinds):
        return full
    sliding = _ready(config, full_BQL & (ahead_BQL < window), dtype)
    return {"full_attention": full, "sliding_attention": sliding} if kinds else sliding


def _ready(config: Any, allowed_BLL: Tensor, dtype: torch.dtype) -> Tensor:
    """Boolean for `sdpa`, to be added to the attention weights for `eager`."""
    allowed_B1LL = allowed_BLL.unsqueeze(1)
    if config._attn_implementation == "sdpa":
        return allowed_B1LL
    zeros = torch.zeros(allowed_B1LL.shape, dtype=dtype, device=allowed_B1LL.device)
    return zeros.masked_fill(~allowed_B1LL, torch.finfo(dtype).min)
