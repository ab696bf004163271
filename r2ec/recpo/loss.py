"""The two clipped terms of RecPO and their denominators (method, section 2).

Everything here is a pure function of tensors. Denominators span ranks and micro-batches: they are
computed once, globally, and passed in, so that any cut of the batch gives the same gradient.

Shapes: N rollouts, B users, C candidate items, I catalog items, H hidden size; "tokens" are the
sampled tokens of all rollouts of a micro-batch, one after the other.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def clipped_objective(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """-min(r·A, clip(r, 1 - clip_low, 1 + clip_high)·A) elementwise, and the ratio r = pi/pi_old.

    All arguments have one shape; `old_logprobs` and `advantages` carry no gradient.
    """
    ratio = (logprobs - old_logprobs.detach()).exp()
    bounded = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss = -torch.minimum(ratio * advantages, bounded * advantages)
    return loss, ratio.detach()


def token_weights(num_tokens_N: Tensor, *, norm: str, mean_tokens: float) -> Tensor:
    """Weight of each token of a rollout (N,): 1 (`none`), 1/length (`length`), 1/mean (`batch`).

    `mean_tokens` is the number of sampled tokens of the global batch over its rollouts, so that
    `batch` divides the sum over the global batch by all its tokens. Raises `ValueError` otherwise.
    """
    ones_N = torch.ones_like(num_tokens_N, dtype=torch.float32)
    if norm == "none":
        return ones_N
    if norm == "length":
        return ones_N / num_tokens_N.clamp(min=1)
    if norm == "batch":
        return ones_N / max(mean_tokens, 1.0)
    raise ValueError(f"token_norm {norm!r} is not known; choose none, length or batch")


def kl_to_reference(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Non-negative estimate of KL(policy || reference) per token: exp(d) - d - 1, d = ref - pol."""
    difference = reference_logprobs - logprobs
    return difference.exp() - difference - 1.0


def candidate_mask(
    target_index_B: Tensor, candidate_index_C: Tensor, history_index_B: list[set[int]]
) -> Tensor:
    """Which candidates each user's target competes with in the batch: bool (B, C).

    True at the first candidate that is the user's own target; duplicates of the target and items
    of the user's history are left out. Raises `ValueError` if a target is not a candidate.
    """
    same_BC = target_index_B.unsqueeze(1) == candidate_index_C.unsqueeze(0)
    if not bool(same_BC.any(dim=1).all()):
        raise ValueError("a target is not among the candidates of its batch")
    candidates = candidate_index_C.tolist()
    seen_BC = torch.tensor(
        [[item in history for item in candidates] for history in history_index_B],
        dtype=torch.bool,
        device=same_BC.device,
    ).reshape(same_BC.shape)
    own_BC = torch.zeros_like(same_BC).scatter_(1, target_column(same_BC).unsqueeze(1), True)
    return own_BC | ~(same_BC | seen_BC)


def target_column(same_BC: Tensor) -> Tensor:
    """Column of the first True of each row (B,)."""
    return same_BC.to(torch.int8).argmax(dim=1)


def item_logits(states_BH: Tensor, rows_CH: Tensor, temperature: float) -> Tensor:
    """Cosine over temperature in float32, (B, C), with gradient into both sides."""
    states = torch.nn.functional.normalize(states_BH.float(), dim=-1)
    rows = torch.nn.functional.normalize(rows_CH.float(), dim=-1)
    return states @ rows.T / temperature


def log_shares(target_index: Sequence[int], num_items: int) -> Tensor:
    """log of each item's share of the training targets, (I,); one is added to every count."""
    counts_I = torch.bincount(torch.tensor(target_index), minlength=num_items).double() + 1.0
    return (counts_I / counts_I.sum()).log().float()


def in_batch_logits(
    states_BH: Tensor,
    rows_CH: Tensor,
    mask_BC: Tensor,
    correction_C: Tensor,
    temperature: float,
) -> Tensor:
    """Logits of the masked candidates less `correction_C`, (B, C).

    Candidates are drawn by popularity, so log of that popularity is taken off (the correction of
    sampled softmax, Bengio and Senécal 2008); zeros leave the logits as they are.
    """
    logits_BC = item_logits(states_BH, rows_CH, temperature) - correction_C
    return logits_BC.masked_fill(~mask_BC, -torch.inf)


def in_batch_logprobs(
    states_BH: Tensor,
    rows_CH: Tensor,
    mask_BC: Tensor,
    column_B: Tensor,
    correction_C: Tensor,
    temperature: float,
) -> Tensor:
    """log softmax over the masked candidates at each user's target, (B,)."""
    logits_BC = in_batch_logits(states_BH, rows_CH, mask_BC, correction_C, temperature)
    return logits_BC.log_softmax(dim=-1).gather(1, column_B.unsqueeze(1)).squeeze(1)


def catalog_logprobs(
    states_BH: Tensor,
    table_IH: Tensor,
    target_index_B: Tensor,
    live_BH: Tensor,
    temperature: float,
) -> Tensor:
    """log softmax over the whole table at the target, whose row `live_BH` has gradient, (B,)."""
    logits_BI = item_logits(states_BH, table_IH.detach(), temperature)
    states = torch.nn.functional.normalize(states_BH.float(), dim=-1)
    live = torch.nn.functional.normalize(live_BH.float(), dim=-1)
    target_B1 = ((states * live).sum(dim=-1) / temperature).unsqueeze(1)
    index_B1 = target_index_B.unsqueeze(1)
    logits_BI = logits_BI.scatter(1, index_B1, target_B1)
    return logits_BI.log_softmax(dim=-1).gather(1, index_B1).squeeze(1)
