"""Which token comes next: greedy, or a draw that inverts the distribution at a given number.

Randomness is one uniform number per (seed, user, rollout, position), so a reasoning does not depend
on the batch, the shard or the order in which users are served.

Shapes: N rows, T positions, V vocabulary, K kept tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Logits are divided by the temperature: below this they leave float32.
LEAST_TEMPERATURE = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """How to sample. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 switch those off.

    `keep_support` keeps the ids that top-k left at each position, so that a trainer can compute
    its log-probabilities over the same support; otherwise log-probabilities are over the full
    vocabulary at `temperature`.
    """

    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int
    keep_support: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top_k < 0 or self.max_new_tokens < 0:
            raise ValueError(f"top_k and max_new_tokens must not be negative: {self}")
        if self.temperature != 0 and not LEAST_TEMPERATURE <= self.temperature < float("inf"):
            raise ValueError(
                f"temperature {self.temperature}: give a number from {LEAST_TEMPERATURE:g}, or 0,"
                " which takes the likeliest token"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.keep_support and self.top_k == 0:
            raise ValueError("keep_support needs top_k above 0")


@dataclass(frozen=True, slots=True)
class ChosenTokens:
    """One sampled token a row: ids, log-probabilities at the sampling temperature, support."""

    ids_N: Tensor
    logprobs_N: Tensor
    support_NK: Tensor | None


def choose_tokens(
    logits_NV: Tensor, uniforms_N: Tensor, settings: SamplingSettings
) -> ChosenTokens:
    """Draw one token a row by inverting the distribution at the given uniforms in [0, 1).

    Greedy takes the largest logit, ties to the lower id, with log-probabilities at temperature 1.
    Otherwise logits are divided by the temperature, then cut to the top k, then to the smallest
    set of mass `top_p`. Log-probabilities are over the full vocabulary, or over the top k with
    `keep_support`.
    """
    if settings.temperature == 0:
        ids_N = logits_NV.argmax(dim=-1)
        picked = logits_NV.gather(1, ids_N.unsqueeze(1)).squeeze(1)
        return ChosenTokens(ids_N, picked - logits_NV.logsumexp(dim=-1), None)
    scaled_NV = logits_NV / settings.temperature
    k = min(settings.top_k or scaled_NV.shape[1], scaled_NV.shape[1])
    if k < scaled_NV.shape[1]:
        top_NK, ids_NK = scaled_NV.topk(k, dim=-1)
    elif settings.top_p < 1:
        top_NK, ids_NK = scaled_NV.sort(dim=-1, descending=True, stable=True)
    else:
        top_NK, ids_NK = scaled_NV, torch.arange(k, device=scaled_NV.device).expand_as(scaled_NV)
    probs_NK = top_NK.double().softmax(dim=-1)
    if settings.top_p < 1:
        before_NK = probs_NK.cumsum(dim=-1) - probs_NK
        probs_NK = probs_NK.masked_fill(before_NK >= settings.top_p, 0.0)
    cumulative_NK = probs_NK.cumsum(dim=-1)
    threshold_N1 = uniforms_N.double().unsqueeze(1) * cumulative_NK[:, -1:]
    place_N1 = torch.searchsorted(cumulative_NK, threshold_N1, right=True)
    # The last place of any mass: rounding must not choose one that was cut off.
    places_K = torch.arange(probs_NK.shape[1], device=probs_NK.device)
    last_N1 = torch.where(probs_NK > 0, places_K, 0).amax(dim=-1, keepdim=True)
    place_N1 = torch.minimum(place_N1, last_N1)
    picked_N = top_NK.gather(1, place_N1).squeeze(1)
    over_NK = top_NK if settings.keep_support else scaled_NV
    return ChosenTokens(
        ids_NK.gather(1, place_N1).squeeze(1),
        picked_N - over_NK.logsumexp(dim=-1),
        ids_NK if settings.keep_support else None,
    )


def uniforms(keys: Sequence[str], group_size: int, settings: SamplingSettings) -> np.ndarray:
    """Uniform numbers in [0, 1), one per (seed, key, rollout, position): (keys·group, T) float64.

    A counter-based generator (Philox) keyed by the hash of seed, key and rollout.
    """
    numbers = np.zeros((len(keys) * group_size, max(1, settings.max_new_tokens)))
    if settings.temperature == 0:
        return numbers
    for place, key in enumerate(keys):
        for rollout in range(group_size):
            name = f"{settings.seed}\0{key}\0{rollout}".encode()
            seed = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
            generator = np.random.Generator(np.random.Philox(key=seed))
            numbers[place * group_size + rollout] = generator.random(numbers.shape[1])
    return numbers
