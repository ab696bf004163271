"""Advantages: each rollout's reward relative to its own group (method, section 2).

Shapes: B users, G rollouts.
"""

from torch import Tensor

# A reward's relative rounding: float32 states, through cosines over a small temperature.
ROUNDING = 1e-5


def group_advantages(rewards_BG: Tensor, kind: str = "grpo") -> Tensor:
    """Advantages (B, G) within each group; exactly 0 where all rewards of a group are equal.

    `grpo`: (R - mean)/(std + 1e-8), with the population standard deviation.
    `rloo`: G/(G - 1)·(R - mean), which is R minus the mean of the others.
    Raises `ValueError` for another kind, or groups of fewer than two.
    """
    group_size = rewards_BG.shape[1]
    if group_size < 2:
        raise ValueError(f"a group needs 2 or more rollouts, got {group_size}")
    if len(rewards_BG) == 0:  # a rank without users; torch warns of spreads of nothing
        return rewards_BG
    centred_BG = rewards_BG - rewards_BG.mean(dim=1, keepdim=True)
    if kind == "grpo":
        spread_B1 = rewards_BG.std(dim=1, keepdim=True, correction=0)
        advantages_BG = centred_BG / (spread_B1 + 1e-8)
    elif kind == "rloo":
        advantages_BG = centred_BG * (group_size / (group_size - 1))
    else:
        raise ValueError(f"advantage {kind!r} is not known; choose grpo or rloo")
    return advantages_BG.masked_fill(zero_variance(rewards_BG).unsqueeze(1), 0.0)


def zero_variance(rewards_BG: Tensor) -> Tensor:
    """True for each group whose rewards are all equal (B,): such a group teaches nothing.

    Equal means within a relative `ROUNDING`: rollouts with one text differ by their rounding in
    the batch, and dividing by the standard deviation would blow that up to whole advantages.
    """
    spread_B = rewards_BG.amax(dim=1) - rewards_BG.amin(dim=1)
    return spread_B <= ROUNDING * rewards_BG.abs().amax(dim=1)


def best_rollout(advantages_BG: Tensor) -> Tensor:
    """Index of the largest advantage of each group (B,); ties go to the first."""
    return advantages_BG.argmax(dim=1)
