"""Rollouts to rewards: their user states against the item rows (method, section 2).

Shapes: B users, G rollouts, N = B·G, I items, H hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r2ec.model.dual_head import DualHeadModel
from r2ec.recpo.reward import discrete_rewards, fused_rewards
from r2ec.recpo.rollout import Group
from r2ec.retrieval.rank import target_ranks, target_softmax


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutRewards:
    """The reward of each rollout and its two parts: R, R_d and R_c, all float32 (B, G)."""

    fused_BG: Tensor
    discrete_BG: Tensor
    continuous_BG: Tensor


def rollout_rewards(
    model: DualHeadModel,
    groups: Sequence[Group],
    table_IH: Tensor,
    *,
    beta: float,
    cutoff: int,
) -> RolloutRewards:
    """Rewards of the rollouts, on the CPU; a row for each group, in order.

    A target's rank is the worst of a tie among all items (I, H), seen ones too. `beta` weighs the
    target's softmax against 1/log2(rank + 1), which is 0 beyond `cutoff`. Without groups the
    result is (0, 2). Raises `ValueError` for a target that has no row, and for states that are not
    finite.
    """
    if not groups:
        none = torch.zeros(0, 2)
        return RolloutRewards(fused_BG=none, discrete_BG=none, continuous_BG=none)
    group_size = len(groups[0].completions)
    states_NH = torch.stack([c.state_H for group in groups for c in group.completions])
    target_N = torch.tensor([g.target_index for g in groups for _ in range(group_size)])
    states_NH, target_N = states_NH.to(model.device), target_N.to(model.device)
    ranks_N = target_ranks(
        states_NH, table_IH, target_N, temperature=model.temperature, ties="worst"
    )
    probability_N = target_softmax(states_NH, table_IH, target_N, temperature=model.temperature)
    rewards_N = fused_rewards(ranks_N, probability_N, beta=beta, cutoff=cutoff)
    fused_BG, discrete_BG, continuous_BG = (
        part_N.view(len(groups), group_size).float().cpu()
        for part_N in (rewards_N, discrete_rewards(ranks_N, cutoff), probability_N)
    )
    return RolloutRewards(fused_BG=fused_BG, discrete_BG=discrete_BG, continuous_BG=continuous_BG)
