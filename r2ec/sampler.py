"""Prompts to completions: ids, log-probabilities and the user state, in one pass.

An own decoding loop instead of `generate`, because the user state must come out of the generation
itself: the prompt of a group is computed once; a row whose reasoning ended is fed the rest of the
answer marker, gives its last hidden state, and leaves at once; prompts that wait take the places
that became free. Keys and values lie in slots made beforehand (`model/slots.py`). On a GPU some
steps are run ahead of what the host has seen (`model/steps.py`).

Shapes: N slots, n rows in use, S steps at once, T sampled tokens, H hidden size, V vocabulary.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from r2ec.model.choice import SamplingSettings, choose_tokens, uniforms
from r2ec.model.dual_head import DualHeadModel
from r2ec.model.slots import SlotCache, row_bytes
from r2ec.model.steps import StepRunner, Steps
from r2ec.text.tokens import PromptEncoder, pad_right

__all__ = ["Completion", "SamplingSettings", "sample"]

# Waiting prompts come in once an eighth of the slots is free: few rows a time waste the matrix
# products of the prompts, many leave slots empty for long.
_REFILL_SHARE = 8
# Prompts computed at once have at most this many tokens together, padding included.
_PREFILL_TOKENS = 16_384
_DEFAULT_CACHE_BYTES = 8 << 30
# Steps that a GPU runs before the host looks at the tokens. A row that ends among them wastes half
# of them on average.
_CUDA_RUN_AHEAD = 8


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
    cache_bytes: int = _DEFAULT_CACHE_BYTES,
    run_ahead: int | None = None,
) -> list[list[Completion]]:
    """Sample `group_size` completions of each prompt; result in the order of the prompts.

    `keys` name the users and seed the randomness. At most `batch_rows` rows run at once, fewer
    where their keys and values would take more than `cache_bytes` (one group always runs). Prompts
    run in order of length. `run_ahead` steps are decoded between looks at the tokens (8 on a GPU,
    1 elsewhere); the result is the same. Raises `ValueError` where lengths disagree, a prompt is
    empty or `run_ahead` is below 1.
    """
    if run_ahead is None:
        run_ahead = _CUDA_RUN_AHEAD if model.device.type == "cuda" else 1
    if run_ahead < 1:
        raise ValueError(f"run_ahead must be at least 1, got {run_ahead}")
    if len(prompts) != len(keys):
        raise ValueError(f"{len(prompts)} prompts but {len(keys)} keys")
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt has no tokens")
    if not prompts:
        return []
    longest = max(map(len, prompts)) + settings.max_new_tokens + len(encoder.marker_ids)
    longest += run_ahead - 1
    model.check_length(longest)
    affordable = cache_bytes // row_bytes(model.config, longest, model.dtype)
    rows = max(group_size, min(batch_rows, affordable, len(prompts) * group_size))
    with torch.no_grad():
        if settings.max_new_tokens == 0:
            return _without_reasoning(model, encoder, prompts, group_size)
        slots = SlotCache(model.config, rows, longest)
        return _Decoder(model, encoder, prompts, keys, settings, group_size, slots, run_ahead).run()


def _without_reasoning(
    model: DualHeadModel, encoder: PromptEncoder, prompts: Sequence[Sequence[int]], group_size: int
) -> list[list[Completion]]:
    """User states right after prompt and marker, by plain forwards in order of length."""
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    results: list[list[Completion]] = [[] for _ in prompts]
    marker = list(encoder.marker_ids)
    while order:
        chosen, order = _fitting(order, prompts)
        ids, mask = pad_right([[*prompts[number], *marker] for number in chosen], marker[0])
        states_BH = model.last_hidden(
            torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device)
        )
        for number, state_H in zip(chosen, states_BH.float().cpu(), strict=True):
            completion = Completion(
                prompt_ids=prompts[number],
                ids=marker,
                num_sampled=0,
                finish_reason="length",
                logprobs_T=torch.empty(0),
                state_H=state_H,
                support_TK=None,
            )
            results[number] = [completion] * group_size
    return results


def _fitting(
    order: list[int], prompts: Sequence[Sequence[int]], most: int | None = None
) -> tuple[list[int], list[int]]:
    """Cut the first prompts of `order` (by length) that may be computed at once from the rest."""
    count = 1
    while count < min(len(order), most or len(order)):
        if (count + 1) * len(prompts[order[count]]) > _PREFILL_TOKENS:
            break
        count += 1
    return order[:count], order[count:]


@dataclass(slots=True)
class _Row:
    """One completion under way: `pending` are the tokens that still have to be fed."""

    prompt: int
    rollout: int
    uniforms_T: np.ndarray
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    support: list[Tensor] = field(default_factory=list)
    pending: deque[int] = field(default_factory=deque)
    num_sampled: int = 0
    finish_reason: str = ""
    state_H: Tensor | None = None


class _Decoder:
    """Rows from prefill to the last marker; `active[i]` is the row in slot i."""

    def __init__(
        self,
        model: DualHeadModel,
        encoder: PromptEncoder,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[str],
        settings: SamplingSettings,
        group_size: int,
        slots: SlotCache,
        run_ahead: int,
    ) -> None:
        self.model, self.encoder, self.settings = model, encoder, settings
        self.prompts, self.keys, self.group_size = prompts, keys, group_size
        self.slots, self.run_ahead = slots, run_ahead
        self.runner = StepRunner(model, slots, settings)
        self.waiting = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        self.active: list[_Row] = []
        self.results: list[list[Completion | None]] = [[None] * group_size for _ in prompts]

    def run(self) -> list[list[Completion]]:
        """Decode until every row has its user state; groups in the order of the prompts."""
        while self.waiting or self.active:
            if self._may_admit():
                self._admit()
            self._decode()
            self._leave()
        groups = [[c for c in group if c is not None] for group in self.results]
        assert all(len(group) == self.group_size for group in groups)
        return groups

    def _may_admit(self) -> bool:
        free = self.slots.num_slots - len(self.active)
        enough = max(self.group_size, self.slots.num_slots // _REFILL_SHARE)
        return (
            bool(self.waiting) and free >= self.group_size and (free >= enough or not self.active)
        )

    def _admit(self) -> None:
        """Put waiting prompts through the model once each and give every rollout a slot."""
        free = (self.slots.num_slots - len(self.active)) // self.group_size
        while free and self.waiting:
            chosen, self.waiting = _fitting(self.waiting, self.prompts, free)
            free -= len(chosen)
            lengths = [len(self.prompts[number]) for number in chosen]
            ids, _ = pad_right(
                [self.prompts[number] for number in chosen], self.encoder.marker_ids[0]
            )
            hidden_BLH, cache = self.model.prefill(torch.tensor(ids, device=self.model.device))
            self.slots.put(cache, lengths, self.group_size)
            last = torch.tensor(lengths, device=hidden_BLH.device) - 1
            hidden_BH = hidden_BLH[torch.arange(len(chosen), device=last.device), last]
            names = [self.keys[number] for number in chosen]
            drawn_NT = uniforms(names, self.group_size, self.settings)
            rows = [
                _Row(number, rollout, drawn_NT[place * self.group_size + rollout])
                for place, number in enumerate(chosen)
                for rollout in range(self.group_size)
            ]
            self.active += rows
            self._begin(hidden_BH.repeat_interleave(self.group_size, dim=0), rows)

    def _begin(self, hidden_nH: Tensor, rows: Sequence[_Row]) -> None:
        """Sample the first token of rows whose prompts have just been computed."""
        uniforms_n = torch.from_numpy(np.stack([row.uniforms_T[0] for row in rows]))
        chosen = choose_tokens(
            self.model.logits(hidden_nH), uniforms_n.to(hidden_nH.device), self.settings
        )
        tokens, logprobs = chosen.ids_N.tolist(), chosen.logprobs_N.tolist()
        support_NK = None if chosen.support_NK is None else chosen.support_NK.cpu()
        for place, row in enumerate(rows):
            support_K = None if support_NK is None else support_NK[place]
            self._take(row, tokens[place], logprobs[place], support_K)

    def _decode(self) -> None:
        """Some steps of all rows; then each row takes what holds of them."""
        count, ahead = len(self.active), self.run_ahead
        forced_nS = np.full((count, ahead), -1)
        uniforms_nS = np.zeros((count, ahead))
        last = self.settings.max_new_tokens - 1
        for place, row in enumerate(self.active):
            known = min(len(row.pending), ahead)
            forced_nS[place, :known] = [row.pending[step] for step in range(known)]
            if row.num_sampled <= last:
                # The token after the last pending one is the next to be sampled.
                at_S = np.arange(ahead) + row.num_sampled - (len(row.pending) - 1)
                uniforms_nS[place] = row.uniforms_T[at_S.clip(0, last)]
        sampling = [place for place, row in enumerate(self.active) if not row.finish_reason]
        steps = self.runner.run(
            torch.from_numpy(forced_nS),
            torch.from_numpy(uniforms_nS),
            sampling if ahead == 1 else None,
        )
        self._use(steps)

    def _use(self, steps: Steps) -> None:
        """Go through the steps as far as each row was fed what it should have been."""
        done: list[tuple[int, int]] = []
        for place, row in enumerate(self.active):
            for step, fed_n in enumerate(steps.fed_Sn):
                if fed_n[place] != row.pending[0]:
                    break
                row.pending.popleft()
                self.slots.lengths[place] += 1
                if row.pending:
                    continue
                if row.finish_reason:
                    done.append((step, place))
                    break
                support = steps.support_SnK
                self._take(
                    row,
                    steps.ids_Sn[step][place],
                    steps.logprobs_Sn[step][place],
                    None if support is None else support[step, place],
                )
        if done:
            at_steps, places = (list(numbers) for numbers in zip(*done, strict=True))
            states = steps.hidden_SnH[at_steps, places].float().cpu()
            for place, state_H in zip(places, states, strict=True):
                self.active[place].state_H = state_H

    def _take(self, row: _Row, token: int, logprob: float, support_K: Tensor | None) -> None:
        """Record a sampled token and decide whether the reasoning ends with it."""
        row.logprobs.append(logprob)
        if support_K is not None:
            row.support.append(support_K)
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
            row.ids.extend(self.encoder.marker_ids)
            row.pending.extend(self.encoder.marker_ids)

    def _leave(self) -> None:
        """Rows that have their user state leave; the last row in use takes the place of each."""
        for slot in range(len(self.active) - 1, -1, -1):
            row = self.active[slot]
            if row.state_H is None:
                continue
            self.results[row.prompt][row.rollout] = self._completion(row)
            moved = self.slots.drop(slot)
            self.active[slot] = self.active[moved]
            self.active.pop()

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
