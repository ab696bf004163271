"""Prompts to completions: ids, log-probabilities and the user state, in one pass.

An own decoding loop instead of `generate`, because the user state must come out of the generation
itself: the prompt of a group is computed once, a row whose reasoning ended is fed the rest of the
answer marker, gives its last hidden state, and leaves the batch at once.

Randomness is one uniform number per (seed, user, rollout, position), so a reasoning does not depend
on the batch, the shard or the order in which users are served.

Shapes: N rows in the batch, L tokens, T sampled tokens, H hidden size, V vocabulary.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from r2ec.model.dual_head import DualHeadModel
from r2ec.text.tokens import PromptEncoder, pad_left

# A batch is repacked when a fifth of its rows has left: each repacking copies the cache once.
_REPACK_SHARE = 0.8


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
        if self.temperature < 0 or self.top_k < 0 or self.max_new_tokens < 0:
            raise ValueError(f"temperature, top_k and max_new_tokens must not be negative: {self}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.keep_support and self.top_k == 0:
            raise ValueError("keep_support needs top_k above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What was written after one prompt.

    `ids` holds the `num_sampled` sampled tokens, then the forced ones; only sampled tokens are
    actions. `logprobs_T` are those of the sampled tokens as sampled, `state_H` is the hidden state
    of the last token (the marker's last), both float32. `support_TK` as in `SamplingSettings`.
    """

    prompt_ids: Sequence[int]
    ids: list[int]
    num_sampled: int
    finish_reason: str
    logprobs_T: Tensor
    state_H: Tensor
    support_TK: Tensor | None


def sample(
    model: DualHeadModel,
    encoder: PromptEncoder,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    settings: SamplingSettings,
    *,
    group_size: int = 1,
    batch_rows: int = 256,
) -> list[list[Completion]]:
    """Sample `group_size` completions of each prompt; result in the order of the prompts.

    `keys` name the users and seed the randomness. At most `batch_rows` rows run at once; prompts
    run in order of length. Raises `ValueError` where lengths disagree or a prompt is empty.
    """
    if len(prompts) != len(keys):
        raise ValueError(f"{len(prompts)} prompts but {len(keys)} keys")
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt has no tokens")
    results: list[list[Completion]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    step = max(1, batch_rows // group_size)
    with torch.no_grad():
        for start in range(0, len(order), step):
            chosen = order[start : start + step]
            batch = [prompts[row] for row in chosen]
            rows = _Batch(
                model, encoder, batch, [keys[row] for row in chosen], settings, group_size
            )
            for row, completions in zip(chosen, rows.run(), strict=True):
                results[row] = completions
    return results


@dataclass(slots=True)
class _Row:
    """One completion under way: `pending` are the tokens that still have to be fed."""

    prompt: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    support: list[Tensor] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    num_sampled: int = 0
    finish_reason: str = ""
    state_H: Tensor | None = None


class _Batch:
    """The rows of one batch from prefill to the last marker."""

    def __init__(
        self,
        model: DualHeadModel,
        encoder: PromptEncoder,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[str],
        settings: SamplingSettings,
        group_size: int,
    ) -> None:
        self.model, self.encoder, self.settings = model, encoder, settings
        self.prompts, self.group_size = prompts, group_size
        self.rows = [_Row(prompt=p) for p in range(len(prompts)) for _ in range(group_size)]
        self.uniforms_NT = uniforms(keys, group_size, settings)
        # Rows of the tensors: `alive[i]` is the number of the row that stands at place i.
        self.alive = list(range(len(self.rows)))

    def run(self) -> Iterator[list[Completion]]:
        """Decode until every row has its user state; yield the groups in order of the prompts."""
        hidden_NH = self._prefill()
        while True:
            self._advance(hidden_NH)
            if all(self.rows[row].state_H is not None for row in self.alive):
                break
            self._repack()
            hidden_NH = self._feed()
        for start in range(0, len(self.rows), self.group_size):
            yield [self._completion(row) for row in self.rows[start : start + self.group_size]]

    def _prefill(self) -> Tensor:
        """Put the prompts through the model once, then give each group its copies of the cache."""
        device = self.model.device
        pad = next(iter(self.encoder.stop_ids))
        ids, mask = pad_left(self.prompts, pad)
        self.cache = DynamicCache(config=self.model.config)
        mask_BL = torch.tensor(mask, device=device)
        hidden_BLH = self.model.hidden_states(
            torch.tensor(ids, device=device), mask_BL, cache=self.cache
        )
        if self.group_size > 1:
            self.cache.batch_repeat_interleave(self.group_size)
        self.mask_NL = mask_BL.repeat_interleave(self.group_size, dim=0)
        return hidden_BLH[:, -1].repeat_interleave(self.group_size, dim=0)

    def _advance(self, hidden_NH: Tensor) -> None:
        """Use the hidden state of the token just fed: sample on, force on, or take the state."""
        sampling = []
        for place, number in enumerate(self.alive):
            row = self.rows[number]
            if row.state_H is not None or row.pending:
                continue
            if row.finish_reason:
                row.state_H = hidden_NH[place].float().cpu()
            elif self.settings.max_new_tokens == 0:
                row.finish_reason = "length"
                self._force_marker(row)
            else:
                sampling.append(place)
        if not sampling:
            return
        numbers = [self.alive[place] for place in sampling]
        positions = [self.rows[number].num_sampled for number in numbers]
        uniforms_N = torch.from_numpy(self.uniforms_NT[numbers, positions])
        chosen = choose_tokens(
            self.model.logits(hidden_NH[sampling]), uniforms_N.to(hidden_NH.device), self.settings
        )
        tokens, logprobs = chosen.ids_N.tolist(), chosen.logprobs_N.tolist()
        for place, number in enumerate(numbers):
            row = self.rows[number]
            row.logprobs.append(logprobs[place])
            if chosen.support_NK is not None:
                row.support.append(chosen.support_NK[place].cpu())
            self._take(row, tokens[place])

    def _take(self, row: _Row, token: int) -> None:
        """Record a sampled token and decide whether the reasoning ends with it."""
        row.ids.append(token)
        row.pending.append(token)
        row.num_sampled += 1
        if token in self.encoder.stop_ids:
            row.finish_reason = "eos"
        elif self.encoder.closes_marker(row.ids):
            row.finish_reason = "marker"
        elif row.num_sampled == self.settings.max_new_tokens:
            row.finish_reason = "length"
        if row.finish_reason in ("eos", "length"):
            self._force_marker(row)

    def _force_marker(self, row: _Row) -> None:
        row.ids.extend(self.encoder.marker_ids)
        row.pending.extend(self.encoder.marker_ids)

    def _feed(self) -> Tensor:
        """Feed each row's next token (a filler for rows that are done); hidden states (N, H)."""
        filler = next(iter(self.encoder.stop_ids))
        rows = [self.rows[number] for number in self.alive]
        fed = [row.pending.pop(0) if row.pending else filler for row in rows]
        ids_N1 = torch.tensor(fed, device=self.mask_NL.device).unsqueeze(1)
        ones_N1 = self.mask_NL.new_ones(len(fed), 1)
        self.mask_NL = torch.cat([self.mask_NL, ones_N1], dim=1)
        return self.model.hidden_states(ids_N1, self.mask_NL, cache=self.cache)[:, 0]

    def _repack(self) -> None:
        """Drop finished rows from the cache once enough of them have left."""
        active = [i for i, number in enumerate(self.alive) if self.rows[number].state_H is None]
        if len(active) > _REPACK_SHARE * len(self.alive):
            return
        index = torch.tensor(active, device=self.mask_NL.device)
        self.cache.batch_select_indices(index)
        self.mask_NL = self.mask_NL[index]
        self.alive = [self.alive[i] for i in active]

    def _completion(self, row: _Row) -> Completion:
        assert row.state_H is not None
        return Completion(
            prompt_ids=self.prompts[row.prompt],
            ids=row.ids,
            num_sampled=row.num_sampled,
            finish_reason=row.finish_reason,
            logprobs_T=torch.tensor(row.logprobs, dtype=torch.float32),
            state_H=row.state_H,
            support_TK=torch.stack(row.support) if row.support else None,
        )


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
    top_NK, ids_NK = (
        scaled_NV.topk(k, dim=-1)
        if k < scaled_NV.shape[1]
        else scaled_NV.sort(dim=-1, descending=True, stable=True)
    )
    probs_NK = top_NK.double().softmax(dim=-1)
    if settings.top_p < 1:
        before_NK = probs_NK.cumsum(dim=-1) - probs_NK
        probs_NK = probs_NK.masked_fill(before_NK >= settings.top_p, 0.0)
    cumulative_NK = probs_NK.cumsum(dim=-1)
    threshold_N1 = uniforms_N.double().unsqueeze(1) * cumulative_NK[:, -1:]
    place_N1 = torch.searchsorted(cumulative_NK, threshold_N1, right=True)
    last_N1 = (probs_NK > 0).sum(dim=-1, keepdim=True) - 1
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
