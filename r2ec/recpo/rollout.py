"""Rollouts: reasonings sampled for a batch of users, and their log-probabilities under new weights.

Shapes: N rollouts (B users of this rank times G), T sampled tokens of all rows together, H, V.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from r2ec.catalog import Catalog
from r2ec.model.dual_head import DualHeadModel
from r2ec.model.packed import pack_rows
from r2ec.sampler import Completion, SamplingSettings, sample
from r2ec.tables import Example
from r2ec.text.tokens import PromptEncoder

# Logits of a chunk, in float32: 64 MiB whatever the vocabulary.
_CHUNK_ELEMENTS = 1 << 24


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
    """Sample G reasonings for each example, seeded by (seed, step, sequence, rollout).

    One group of `group_size` for each example, in order (method, section 2). At most `batch_rows`
    rollouts run at once. Raises `NotReadyError` for an item that the catalog lacks, `UsageError`
    for a history of which not one item fits into a prompt.
    """
    prompts = [
        encoder.user_ids(example.history, catalog, new_tokens=settings.max_new_tokens)
        for example in examples
    ]
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
    min_chunks: int = 0,
) -> PolicyPass:
    """Recompute the rollouts: same ids, same temperature, same support as the sampler used.

    Neighbours with one prompt share it. Logits are built for sampled tokens only, in chunks that
    are recomputed in the backward pass, never for whole prompts; there are at least `min_chunks`,
    the last ones empty.
    """
    hidden_MH, places = _hidden_of_sampled(model, completions, pad_id)
    sampled = [token for c in completions for token in c.ids[: c.num_sampled]]
    sampled_T = torch.tensor(sampled, dtype=torch.long, device=model.device)
    support_TK = _support(completions, model.device)
    size = chunk_tokens(model)
    parts = [
        _token_figures(
            model,
            hidden_MH[places.before_T[i : i + size]],
            sampled_T[i : i + size],
            None if support_TK is None else support_TK[i : i + size],
            temperature,
        )
        for i in range(0, max(len(sampled), min_chunks * size), size)
    ]
    empty = hidden_MH.new_zeros(0, dtype=torch.float32)
    return PolicyPass(
        logprobs_T=torch.cat([part[0] for part in parts]) if parts else empty,
        entropy_T=torch.cat([part[1] for part in parts]) if parts else empty,
        row_T=places.row_T,
        state_NH=hidden_MH[places.last_N].float(),
    )


def chunk_tokens(model: DualHeadModel) -> int:
    """Tokens whose logits are built at once."""
    return max(1, _CHUNK_ELEMENTS // int(model.config.vocab_size))


def idle_pass(model: DualHeadModel, pad_id: int, num_chunks: int) -> Tensor:
    """A loss of zero that calls the layers as a policy pass with `num_chunks` chunks does."""
    ids = torch.full((1, 1), pad_id, device=model.device)
    hidden_TH = model.hidden_states(ids, torch.ones_like(ids))[0]
    loss = 0.0 * hidden_TH.float().sum()
    nothing_T = ids[0, :0]
    for _ in range(num_chunks):
        logprobs_T, _ = _token_figures(model, hidden_TH[:0], nothing_T, None, 1.0)
        loss = loss + logprobs_T.sum()
    return loss


@dataclass(frozen=True, slots=True)
class _Places:
    """Where, among the M places of a padded batch, a completion's figures are read: `before_T` one
    place before each sampled token, `last_N` at the last token; `row_T` whose token it is."""

    row_T: Tensor
    before_T: Tensor
    last_N: Tensor


def _hidden_of_sampled(
    model: DualHeadModel, completions: Sequence[Completion], pad_id: int
) -> tuple[Tensor, _Places]:
    """Hidden states (M, H) of all places of the packed batch, and where to look."""
    packed = pack_rows([c.prompt_ids for c in completions], [c.ids for c in completions], pad_id)
    hidden_BLH = model.packed_hidden_states(packed)
    length = hidden_BLH.shape[1]
    first = [row * length + n for row, n in zip(packed.row_N, packed.first_N, strict=True)]
    prompt_end = [
        row * length + n - 1 for row, n in zip(packed.row_N, packed.prompt_N, strict=True)
    ]
    row_T, before_T = sampled_places(completions, prompt_end, first)
    last_N = [place + len(c.ids) - 1 for place, c in zip(first, completions, strict=True)]
    device = hidden_BLH.device
    places = _Places(
        torch.tensor(row_T, dtype=torch.long, device=device),
        torch.tensor(before_T, dtype=torch.long, device=device),
        torch.tensor(last_N, dtype=torch.long, device=device),
    )
    return hidden_BLH.flatten(0, 1), places


def sampled_places(
    completions: Sequence[Completion], prompt_end_N: Sequence[int], first_N: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Row of each sampled token and the place that predicts it; forced tokens are not actions.

    The first token of a completion is predicted at the prompt's end, which in a packed row is not
    the place before it.
    """
    rows: list[int] = []
    before: list[int] = []
    for row, (completion, end, first) in enumerate(
        zip(completions, prompt_end_N, first_N, strict=True)
    ):
        rows += [row] * completion.num_sampled
        before += [end, *range(first, first + completion.num_sampled - 1)][: completion.num_sampled]
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
