"""Exact ranking of a whole catalog, a block of items at a time; never a B x I matrix.

A score is the cosine of user state and item row divided by the temperature, computed for the pair
alone in float64 and rounded to float32 (`cosine.py`). Scores, order and ties are therefore the
same whatever the block size, the batch and the place of an item in a block; items with equal rows
have equal scores. Equal scores are ordered by `item_index`.

Shapes: B users, I items, H hidden size, K results.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from r2ec.retrieval.cosine import (
    CosineBlock,
    cosine_error_bound,
    exact_cosines,
    exact_list_cosines,
    iter_cosine_blocks,
    require_states,
    seen_pairs,
)
from r2ec.retrieval.shortlist import Candidates, Shortlist


@torch.no_grad()
def top_k(
    user_states_BH: Tensor,
    item_embeddings_IH: Tensor,
    k: int,
    *,
    temperature: float,
    seen: Sequence[Sequence[int]] | None = None,
    allowed_I: Tensor | None = None,
    block_items: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best items of each user: scores [B, K] float32 and item_index [B, K] int64.

    `seen[user]` lists item indices that must not come back, `allowed_I` (bool) bars all others for
    everybody. Where fewer than k items are left, the last entries have score -inf and index -1.
    Raises `ValueError` for k < 1, shapes that do not fit, seen items outside the catalog and
    states or rows that are not finite.
    """
    _require_settings(k, temperature, block_items)
    require_states(user_states_BH, item_embeddings_IH)
    num_users, num_items = user_states_BH.shape[0], item_embeddings_IH.shape[0]
    if not num_users:
        return torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
    kept = min(num_items, k + k // 8 + 16)

    def blocks(users: slice) -> Iterable[CosineBlock]:
        states_BH = user_states_BH[users]
        return iter_cosine_blocks(
            states_BH,
            item_embeddings_IH,
            block_items=block_items,
            masked=_masked(None if seen is None else seen[users], states_BH, num_items),
            allowed_I=allowed_I,
        )

    shortlist = Shortlist(num_users, kept, user_states_BH.device)
    for block in blocks(slice(None)):
        shortlist.take(block)
    cosines_BM, item_BM = shortlist.result()
    cosines_BM, order_BM = cosines_BM.sort(dim=1, descending=True)
    floor_B = cosines_BM[:, min(k, kept) - 1] - 2 * cosine_error_bound(user_states_BH.shape[1])
    # One below the floor cannot be among the k best, whatever both errors are.
    is_near_BM = (cosines_BM >= floor_B[:, None]) & (cosines_BM > -torch.inf)
    most = int(is_near_BM.sum(dim=1).max())
    item_BM = item_BM.gather(1, order_BM[:, :most])
    score_BM = exact_list_cosines(user_states_BH, item_embeddings_IH, item_BM) / temperature
    score_BM = score_BM.float().masked_fill(~is_near_BM[:, :most], -torch.inf)
    scores_BK, items_BK = _first_k(score_BM, item_BM, k)

    # What was not kept has a cosine of at most the least one kept. Where that is within both
    # errors of the k-th, it may belong to the k best: go through all items as near, one by one.
    if kept < num_items:
        least_B = cosines_BM[:, -1]
        for user in ((least_B >= floor_B) & least_B.isfinite()).nonzero().flatten().tolist():
            scores_BK[user], items_BK[user] = _top_k_of_crowd(
                user_states_BH[user : user + 1],
                item_embeddings_IH,
                k,
                floor=float(floor_B[user]),
                temperature=temperature,
                blocks=blocks(slice(user, user + 1)),
            )
    return scores_BK, items_BK


@torch.no_grad()
def target_ranks(
    user_states_BH: Tensor,
    item_embeddings_IH: Tensor,
    target_index_B: Tensor,
    *,
    temperature: float,
    seen: Sequence[Sequence[int]] | None = None,
    ties: Literal["worst", "index"] = "index",
    block_items: int | None = None,
) -> Tensor:
    """1-based rank [B] int64 of each user's target, by counting the items that score better.

    Seen items do not count, the target itself always does (it may have been bought before). An
    equal score counts as better with `ties="worst"` (rewards), and with `ties="index"` (output)
    where its `item_index` is lower. Raises as `top_k` does.
    """
    if ties not in ("worst", "index"):
        raise ValueError(f"ties={ties!r}: give 'worst' or 'index'")
    _require_settings(1, temperature, block_items)
    require_states(user_states_BH, item_embeddings_IH)
    num_users, num_items = user_states_BH.shape[0], item_embeddings_IH.shape[0]
    target_B = _checked_targets(target_index_B, num_users, num_items)
    user_B = torch.arange(num_users, device=target_B.device)
    target_score_B = _pair_scores(user_states_BH, item_embeddings_IH, user_B, target_B, temperature)
    target_cosine_B = target_score_B.double() * temperature
    margin = 2 * cosine_error_bound(user_states_BH.shape[1])
    rank_B = torch.ones(num_users, dtype=torch.int64, device=user_states_BH.device)
    for block in iter_cosine_blocks(
        user_states_BH,
        item_embeddings_IH,
        block_items=block_items,
        masked=_masked(seen, user_states_BH, num_items),
    ):
        users = slice(block.first_user, block.first_user + block.cosines.shape[0])
        column_b = target_B[users] - block.first_item
        inside = (column_b >= 0) & (column_b < block.cosines.shape[1])
        block.cosines[inside.nonzero().flatten(), column_b[inside]] = -torch.inf
        cosine_b1 = target_cosine_B[users, None]
        better_bn = block.cosines > (cosine_b1 + margin).float()
        near_bn = (block.cosines >= (cosine_b1 - margin).float()) & ~better_bn
        rank_B[users] += better_bn.sum(dim=1)
        row_P, column_P = near_bn.nonzero(as_tuple=True)
        user_P, item_P = row_P + block.first_user, column_P + block.first_item
        score_P = _pair_scores(user_states_BH, item_embeddings_IH, user_P, item_P, temperature)
        ahead_P = score_P == target_score_B[user_P]
        if ties == "index":
            ahead_P &= item_P < target_B[user_P]
        ahead_P |= score_P > target_score_B[user_P]
        rank_B.index_add_(0, user_P, ahead_P.long())
    return rank_B


@torch.no_grad()
def target_softmax(
    user_states_BH: Tensor,
    item_embeddings_IH: Tensor,
    target_index_B: Tensor,
    *,
    temperature: float,
    block_items: int | None = None,
) -> Tensor:
    """Softmax over the whole catalog of the scores, at the target: R_c [B] float32.

    The normaliser is a running log-sum-exp over the blocks. Raises as `top_k` does.
    """
    _require_settings(1, temperature, block_items)
    require_states(user_states_BH, item_embeddings_IH)
    num_users, num_items = user_states_BH.shape[0], item_embeddings_IH.shape[0]
    target_B = _checked_targets(target_index_B, num_users, num_items)
    user_B = torch.arange(num_users, device=target_B.device)
    score_B = _pair_scores(user_states_BH, item_embeddings_IH, user_B, target_B, temperature)
    normaliser_B = torch.full_like(score_B, -torch.inf, dtype=torch.float64)
    for block in iter_cosine_blocks(user_states_BH, item_embeddings_IH, block_items=block_items):
        users = slice(block.first_user, block.first_user + block.cosines.shape[0])
        here_b = torch.logsumexp(block.cosines / temperature, dim=1)
        normaliser_B[users] = torch.logaddexp(normaliser_B[users], here_b.double())
    return (score_B.double() - normaliser_B).exp().clamp(max=1.0).float()


def _top_k_of_crowd(
    state_1H: Tensor,
    item_embeddings_IH: Tensor,
    k: int,
    *,
    floor: float,
    temperature: float,
    blocks: Iterable[CosineBlock],
) -> Candidates:
    """The k best of one user among all items with a cosine of at least `floor`, each exact."""
    score_K = state_1H.new_empty(0, dtype=torch.float32)
    item_K = torch.empty(0, dtype=torch.int64, device=state_1H.device)
    for block in blocks:
        item_P = (block.cosines[0] >= floor).nonzero().flatten() + block.first_item
        user_P = torch.zeros_like(item_P)
        score_P = _pair_scores(state_1H, item_embeddings_IH, user_P, item_P, temperature)
        scores_1K, items_1K = _first_k(
            torch.cat([score_K, score_P])[None], torch.cat([item_K, item_P])[None], k
        )
        valid = items_1K[0] >= 0
        score_K, item_K = scores_1K[0, valid], items_1K[0, valid]
    scores_1K, items_1K = _first_k(score_K[None], item_K[None], k)
    return scores_1K[0], items_1K[0]


def _first_k(score_BM: Tensor, item_BM: Tensor, k: int) -> Candidates:
    """The first k by score, then by item index; -inf and -1 where there are no more."""
    by_item = item_BM.sort(dim=1)
    score_BM = score_BM.gather(1, by_item.indices)
    by_score = score_BM.sort(dim=1, descending=True, stable=True)
    item_BM = by_item.values.gather(1, by_score.indices)
    item_BM = item_BM.masked_fill(by_score.values == -torch.inf, -1)
    missing = max(0, k - score_BM.shape[1])
    scores_BK = pad(by_score.values[:, :k], (0, missing), value=-torch.inf)
    return scores_BK, pad(item_BM[:, :k], (0, missing), value=-1)


def _pair_scores(
    user_states_BH: Tensor,
    item_embeddings_IH: Tensor,
    user_P: Tensor,
    item_P: Tensor,
    temperature: float,
) -> Tensor:
    """Scores [P] in float32 of the pairs: the definition that every ranking agrees with."""
    cosine_P = exact_cosines(user_states_BH, item_embeddings_IH, user_P, item_P)
    return (cosine_P / temperature).float()


def _masked(
    seen: Sequence[Sequence[int]] | None, user_states_BH: Tensor, num_items: int
) -> Candidates | None:
    if seen is None:
        return None
    num_users, device = user_states_BH.shape[0], user_states_BH.device
    return seen_pairs(seen, num_users=num_users, num_items=num_items, device=device)


def _checked_targets(target_index_B: Tensor, num_users: int, num_items: int) -> Tensor:
    if target_index_B.shape != (num_users,):
        raise ValueError(f"targets of shape {tuple(target_index_B.shape)} for {num_users} users")
    wrong = (target_index_B < 0) | (target_index_B >= num_items)
    if bool(wrong.any()):
        value = int(target_index_B[wrong][0])
        raise ValueError(f"target item_index {value} is not in a catalog of {num_items} items")
    return target_index_B.long()


def _require_settings(k: int, temperature: float, block_items: int | None) -> None:
    if k < 1 or (block_items is not None and block_items < 1):
        raise ValueError(f"k={k}, block_items={block_items}: both are at least 1")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: give a positive number such as 0.02")
