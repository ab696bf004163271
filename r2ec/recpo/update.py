"""One RecPO update: both clipped terms over micro-batches, one optimizer step.

Loss = (1/B) Σ_users (1/G) Σ_i [ token_weight · token term_i + item_weight · item term_i ]
(+ KL), with B the users
of the global batch; every denominator is known before the first micro-batch.

Shapes: N rollouts of this rank, T their sampled tokens, C items of the global batch, H hidden size.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from r2ec.model.dual_head import DualHeadModel
from r2ec.recpo import loss as terms
from r2ec.recpo.advantage import best_rollout
from r2ec.recpo.batches import cut
from r2ec.recpo.engine import Engine
from r2ec.recpo.finite import sum_finite
from r2ec.recpo.items import ItemTable, LiveRows
from r2ec.recpo.rollout import Group, chunk_tokens, idle_pass, policy_pass, sampler_logprobs
from r2ec.sampler import Completion


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateSettings:
    """The part of RecPO's settings that an update needs; names as in `RecpoConfig`."""

    temperature: float
    clip_low: float
    clip_high: float
    token_norm: str
    token_weight: float
    item_weight: float
    item_softmax: str
    kl_weight: float
    micro_batch_rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One rollout as an update sees it; `is_best` marks the largest advantage of its group."""

    completion: Completion
    advantage: float
    user: int
    is_best: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateBatch:
    """This rank's rollouts of one global batch, with the global denominators.

    `targets_C` are the targets of the whole global batch, in the global order; `old_item_logprobs`
    those of each local user's best rollout under the weights that sampled it.
    """

    groups: Sequence[Group]
    samples: Sequence[Sample]
    targets_C: Sequence[int]
    num_users: int
    group_size: int
    mean_tokens: float
    num_chunks: int


@dataclass(slots=True)
class UpdateFigures:
    """Sums over this rank's rollouts, for the log; the trainer adds them up over ranks."""

    token_loss: float = 0.0
    item_loss: float = 0.0
    kl: float = 0.0
    tokens: float = 0.0
    clipped: float = 0.0
    ratio_sum: float = 0.0
    entropy_sum: float = 0.0
    ratio_max: float = field(default=0.0)


def build_samples(
    groups: Sequence[Group], advantages_BG: Tensor, *, skip_equal: bool
) -> list[Sample]:
    """Rollouts with their own advantages, groups together and in order of their length.

    A group shares its prompt in the policy's forward, and groups of like length pad little. With
    `skip_equal`, groups whose rewards were all equal are left out: nothing of them would train.
    """
    best_B = best_rollout(advantages_BG).tolist()
    samples = [
        Sample(
            completion=completion,
            advantage=float(advantages_BG[user, rollout]),
            user=user,
            is_best=rollout == best_B[user],
        )
        for user, group in enumerate(groups)
        for rollout, completion in enumerate(group.completions)
        if not skip_equal or bool(advantages_BG[user].any())
    ]
    lengths = [
        len(group.completions[0].prompt_ids) + sum(len(c.ids) for c in group.completions)
        for group in groups
    ]
    return sorted(samples, key=lambda s: (lengths[s.user], s.user))


def rows_per_micro_batch(micro_batch_rows: int, group_size: int) -> int:
    """Whole groups where one fits, so that none pays for its prompt twice."""
    whole = micro_batch_rows - micro_batch_rows % group_size
    return whole or micro_batch_rows


def item_logprobs(
    model: DualHeadModel,
    states_BH: Tensor,
    users: Sequence[Group],
    live: LiveRows,
    table: ItemTable,
    item_softmax: str,
) -> Tensor:
    """log pi(target) of each row of `states_BH`; its user is the group at the same place, (B,)."""
    device = states_BH.device
    target_B = torch.tensor([group.target_index for group in users], device=device)
    candidates_C = torch.tensor(live.index_C, device=device)
    column_B = terms.target_column(target_B.unsqueeze(1) == candidates_C.unsqueeze(0))
    if item_softmax == "catalog":
        return terms.catalog_logprobs(
            states_BH, table.table_IH, target_B, live.rows_CH[column_B], model.temperature
        )
    mask_BC = terms.candidate_mask(
        target_B, candidates_C, [set(group.example.history.item_index) for group in users]
    )
    return terms.in_batch_logprobs(
        states_BH, live.rows_CH, mask_BC, column_B, live.correction_C, model.temperature
    )


def old_item_logprobs(
    model: DualHeadModel, batch: UpdateBatch, live: LiveRows, table: ItemTable, item_softmax: str
) -> dict[int, float]:
    """log pi_old(target) of each user's best rollout, from the rollout's own user state."""
    best = [sample for sample in batch.samples if sample.is_best]
    if not best:
        return {}
    with torch.no_grad():
        states_BH = torch.stack([sample.completion.state_H for sample in best]).to(model.device)
        users = [batch.groups[sample.user] for sample in best]
        values = item_logprobs(model, states_BH, users, live, table, item_softmax)
    return {sample.user: value for sample, value in zip(best, values.tolist(), strict=True)}


def update_policy(
    engine: Engine,
    batch: UpdateBatch,
    live: LiveRows,
    table: ItemTable,
    old_items: dict[int, float],
    settings: UpdateSettings,
    *,
    pad_id: int,
    lr: float,
    reference: DualHeadModel | None = None,
) -> tuple[UpdateFigures, float | None]:
    """One optimizer step on a rollout batch; returns figures and the gradient norm.

    `live` are the batch's item rows under the current weights. Raises `R2ecError` on all ranks
    before the step if the loss of any is not finite.
    """
    figures = UpdateFigures()
    total = torch.zeros((), device=engine.model.device)
    rows = range(len(batch.samples))
    size = rows_per_micro_batch(settings.micro_batch_rows, batch.group_size)
    cuts = [[batch.samples[row] for row in c] for c in cut(rows, size, batch.num_chunks)]
    for samples, logit_chunks in zip(cuts, _most_logit_chunks(engine, cuts), strict=True):
        loss = (
            _micro_loss(
                engine.model,
                samples,
                batch,
                live,
                table,
                old_items,
                settings,
                figures,
                pad_id=pad_id,
                min_chunks=logit_chunks,
                reference=reference,
            )
            if samples
            else idle_pass(engine.model, pad_id, logit_chunks)
        )
        total += loss.detach()
        engine.backward(loss)
    if settings.item_weight > 0:
        live.backward(settings.micro_batch_rows)
    sum_finite(engine.world, total, "the loss", [group.example for group in batch.groups])
    return figures, engine.step(lr)


def _micro_loss(
    model: DualHeadModel,
    samples: Sequence[Sample],
    batch: UpdateBatch,
    live: LiveRows,
    table: ItemTable,
    old_items: dict[int, float],
    settings: UpdateSettings,
    figures: UpdateFigures,
    *,
    pad_id: int,
    min_chunks: int,
    reference: DualHeadModel | None,
) -> Tensor:
    """This micro-batch's share of the global loss."""
    completions = [sample.completion for sample in samples]
    new = policy_pass(
        model,
        completions,
        pad_id=pad_id,
        temperature=settings.temperature,
        min_chunks=min_chunks,
    )
    device = new.state_NH.device
    advantage_N = torch.tensor([sample.advantage for sample in samples], device=device)
    length_N = torch.tensor([c.num_sampled for c in completions], device=device)
    weight_N = terms.token_weights(
        length_N, norm=settings.token_norm, mean_tokens=batch.mean_tokens
    )
    token_T, ratio_T = terms.clipped_objective(
        new.logprobs_T,
        sampler_logprobs(completions, device),
        advantage_N[new.row_T],
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
    )
    share = 1.0 / (batch.num_users * batch.group_size)
    token_loss = settings.token_weight * (token_T * weight_N[new.row_T]).sum() * share
    # The user states take part in every micro-batch's graph, so that all ranks reduce alike.
    loss = token_loss + 0.0 * new.state_NH.sum()
    if reference is not None:
        with torch.no_grad():
            old = policy_pass(
                reference, completions, pad_id=pad_id, temperature=settings.temperature
            )
        kl = terms.kl_to_reference(new.logprobs_T, old.logprobs_T)
        kl_loss = (kl * weight_N[new.row_T]).sum() * share
        loss = loss + settings.kl_weight * kl_loss
        figures.kl += kl_loss.item()
    best = [place for place, sample in enumerate(samples) if sample.is_best]
    if best and settings.item_weight > 0:
        users = [batch.groups[samples[place].user] for place in best]
        logprobs_B = item_logprobs(
            model, new.state_NH[best], users, live, table, settings.item_softmax
        )
        old_B = torch.tensor([old_items[samples[place].user] for place in best], device=device)
        item_B, _ = terms.clipped_objective(
            logprobs_B,
            old_B,
            advantage_N[best],
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
        )
        item_loss = item_B.sum() * share
        loss = loss + settings.item_weight * item_loss
        figures.item_loss += item_loss.item()
    _count(figures, ratio_T, new.entropy_T, token_loss, settings)
    return loss


def _count(
    figures: UpdateFigures,
    ratio_T: Tensor,
    entropy_T: Tensor,
    token_loss: Tensor,
    settings: UpdateSettings,
) -> None:
    figures.token_loss += token_loss.item()
    if ratio_T.numel() == 0:
        return
    outside = (ratio_T < 1 - settings.clip_low) | (ratio_T > 1 + settings.clip_high)
    figures.tokens += ratio_T.numel()
    figures.clipped += outside.sum().item()
    figures.ratio_sum += ratio_T.sum().item()
    figures.entropy_sum += entropy_T.sum().item()
    figures.ratio_max = max(figures.ratio_max, ratio_T.max().item())


def _most_logit_chunks(engine: Engine, cuts: Sequence[Sequence[Sample]]) -> list[int]:
    """Chunks of logits in each micro-batch of the rank that has most: all ranks run as many."""
    size = chunk_tokens(engine.model)
    own = [-(-sum(s.completion.num_sampled for s in samples) // size) for samples in cuts]
    return [max(counts) for counts in zip(*engine.world.gather(own), strict=True)]


def frozen_copy(model: DualHeadModel) -> DualHeadModel:
    """The reference policy: a copy of the model that is never trained."""
    reference = copy.deepcopy(model)
    reference.requires_grad_(False)
    return reference.eval()
