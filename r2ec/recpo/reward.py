"""The reward of a reasoning: how well the target item ranks after it (method, section 2).

Shapes: B users, G rollouts.
"""

import torch
from torch import Tensor


def discrete_rewards(ranks_BG: Tensor, cutoff: int) -> Tensor:
    """R_d = 1/log2(rank + 1) where rank <= cutoff, else 0: NDCG with one target. Float32 (B, G).

    `ranks_BG` counts from 1. Raises `ValueError` for a rank below 1.
    """
    if ranks_BG.numel() and int(ranks_BG.min()) < 1:
        raise ValueError(f"ranks count from 1, got {int(ranks_BG.min())}")
    gains_BG = 1.0 / torch.log2(ranks_BG.to(torch.float32) + 1.0)
    return torch.where(ranks_BG <= cutoff, gains_BG, torch.zeros_like(gains_BG))


def fused_rewards(
    ranks_BG: Tensor, target_probability_BG: Tensor, *, beta: float, cutoff: int
) -> Tensor:
    """R = beta·R_c + (1 - beta)·R_d, float32 (B, G).

    R_c is `target_probability_BG`, the softmax over the whole catalog at the target.
    """
    discrete_BG = discrete_rewards(ranks_BG, cutoff)
    return beta * target_probability_BG.to(torch.float32) + (1.0 - beta) * discrete_BG
