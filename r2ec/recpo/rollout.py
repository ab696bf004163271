"""Rollouts: reasonings sampled for a batch of users, and their log-probabilities under new weights.

Shapes: N rollouts (B users of this rank times G), T sampled tokens of all rows together, H, V.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from r2ec.model.dual_head import DualHeadModel
from r2ec.sampler import Completion, SamplingSettings, sample
from r2ec.tables import Catalog, Example
from r2ec.text.tokens import PromptEncoder, pad_right

_CHUNK_TOKENS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The G rollouts of one user."""

    example: Example
    completions: list[Completion]

    @property
    def target_index(self) -> int:
        """`item_index` of the item to be predicted."""
        return self.example.target_index


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyPass:
    """Rollouts under the current weights, with gradient.

    `logprobs_T`, `entropy_T` follow the sampled tokens row after row; `row_T` says whose they are.
    `state_NH` is each row's user state.
    """

    logprobs_T: Tensor
    entropy_T: Tensor
    row_T: Tensor
    state_NH: Tensor


def sample_rollouts(
    model: DualHeadModel,
    encoder: PromptEncoder,
    catalog: Catalog,
    examples: Sequence[Example],
    settings: SamplingSettings,
    *,
    step: int,
    group_size: int,
    batch_rows: int,
) -> list[Group]:
    """Sample G reasonings for each example, seeded by (seed, step, sequence, rollout)."""
    prompts = [encoder.user_ids(example.history, catalog) for example in examples]
    keys = [f"{step}/{example.sequence_id}" for example in examples]
    completions = sample(
        model, encoder, prompts, keys, settings, group_size=group_size, batch_rows=batch_rows
    )
    return [
        Group(example=example, completions=group)
        for example, group in zip(examples, completions, strict=True)
    ]


def policy_pass(
    model: DualHeadModel,
    completions: Sequence[Completion],
    *,
    pad_id: int,
    temperature: float,
) -> PolicyPass:
    """Recompute the rollouts: same ids, same temperature, same support as the sampler used.

    Logits are built for sampled tokens only, in chunks that are recomputed in the backward pass,
    never for whole prompts.
    """
    ids, mask = pad_right([[*c.prompt_ids, *c.ids] for c in completions], pad_id)
    ids_NL = torch.tensor(ids, device=model.device)
    mask_NL = torch.tensor(mask, device=model.device)
    hidden_NLH = model.hidden_states(ids_NL, mask_NL)
    rows, before = sampled_positions(completions)
    row_T = torch.tensor(rows, dtype=torch.long, device=model.device)
    before_T = torch.tensor(before, dtype=torch.long, device=model.device)
    sampled_T = ids_NL[row_T, before_T + 1]
    support_TK = _support(completions, model.device)
    parts = [
        _token_figures(
            model,
            hidden_NLH[row_T[i : i + _CHUNK_TOKENS], before_T[i : i + _CHUNK_TOKENS]],
            sampled_T[i : i + _CHUNK_TOKENS],
            None if support_TK is None else support_TK[i : i + _CHUNK_TOKENS],
            temperature,
        )
        for i in range(0, len(rows), _CHUNK_TOKENS)
    ]
    empty = hidden_NLH.new_zeros(0, dtype=torch.float32)
    last_N = mask_NL.sum(dim=1) - 1
    return PolicyPass(
        logprobs_T=torch.cat([part[0] for part in parts]) if parts else empty,
        entropy_T=torch.cat([part[1] for part in parts]) if parts else empty,
        row_T=row_T,
        state_NH=hidden_NLH[torch.arange(len(completions), device=model.device), last_N].float(),
    )


def sampled_positions(completions: Sequence[Completion]) -> tuple[list[int], list[int]]:
    """Row and preceding position of each sampled token; forced tokens are not actions."""
    rows: list[int] = []
    before: list[int] = []
    for row, completion in enumerate(completions):
        first = len(completion.prompt_ids) - 1
        rows += [row] * completion.num_sampled
        before += range(first, first + completion.num_sampled)
    return rows, before


def sampler_logprobs(completions: Sequence[Completion], device: torch.device) -> Tensor:
    """Log-probabilities as sampled, row after row (T,)."""
    return torch.cat([c.logprobs_T for c in completions]).to(device)


def _support(completions: Sequence[Completion], device: torch.device) -> Tensor | None:
    kept = [c.support_TK for c in completions if c.support_TK is not None]
    return torch.cat(kept).to(device) if kept else None


def _token_figures(
    model: DualHeadModel,
    hidden_TH: Tensor,
    sampled_T: Tensor,
    support_TK: Tensor | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of a chunk of tokens; logits are recomputed in the backward."""
    result: tuple[Tensor, Tensor] = checkpoint(
        _figures, model, hidden_TH, sampled_T, support_TK, temperature, use_reentrant=False
    )
    return result


def _figures(
    model: DualHeadModel,
    hidden_TH: Tensor,
    sampled_T: Tensor,
    support_TK: Tensor | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    logits_TV = model.logits(hidden_TH) / temperature
    picked_T = logits_TV.gather(1, sampled_T.unsqueeze(1)).squeeze(1)
    over_TK = logits_TV if support_TK is None else logits_TV.gather(1, support_TK)
    normaliser_T = over_TK.logsumexp(dim=-1)
    with torch.no_grad():
        log_TK = over_TK - normaliser_T.unsqueeze(1)
        entropy_T = -(log_TK.exp() * log_TK).sum(dim=-1)
    return picked_T - normaliser_T, entropy_T
