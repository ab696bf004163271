"""One step of RecPO: rollouts, rewards, advantages, update."""

import time

import torch
from torch import Tensor

from r2ec.recpo.advantage import group_advantages, zero_variance
from r2ec.recpo.batches import batch_at, learning_rate
from r2ec.recpo.finite import check_states
from r2ec.recpo.items import LiveRows
from r2ec.recpo.rollout import Group, sample_rollouts
from r2ec.recpo.rollout_rewards import RolloutRewards, rollout_rewards
from r2ec.recpo.stage import peak_memory_bytes
from r2ec.recpo.update import (
    UpdateBatch,
    UpdateFigures,
    UpdateSettings,
    build_samples,
    old_item_logprobs,
    rows_per_micro_batch,
    update_policy,
)
from r2ec.recpo.workplace import Workplace
from r2ec.sampler import SamplingSettings


def recpo_step(place: Workplace, step: int) -> dict[str, float | None]:
    """One step of RecPO on one global batch; returns its figures, the same on all ranks."""
    config, world, engine = place.config, place.world, place.engine
    settings = config.recpo
    start = time.monotonic()
    users = batch_at(place.data.train, step, settings.batch_users, config.seed)
    targets = [example.target_index for example in users]
    with engine.whole_weights():
        groups = sample_rollouts(
            engine.model,
            place.encoder,
            place.data.catalog,
            world.share(users),
            SamplingSettings(
                temperature=settings.sampling.temperature,
                top_k=settings.sampling.top_k,
                top_p=settings.sampling.top_p,
                max_new_tokens=settings.sampling.max_new_tokens,
                keep_support=settings.support == "top_k",
                seed=config.seed,
            ),
            step=step,
            group_size=settings.group_size,
            batch_rows=settings.sampling.batch_rows,
        )
        rollout_seconds = time.monotonic() - start
        live = LiveRows(engine, place.table, targets)
        refresh_table(place, step, live)
    states = [c.state_H for group in groups for c in group.completions]
    check_states(world, torch.stack(states) if states else torch.empty(0), place.table.table_IH)
    rewards = rollout_rewards(
        engine.model,
        groups,
        place.table.table_IH,
        beta=settings.beta,
        cutoff=settings.reward_cutoff,
    )
    advantages_BG = group_advantages(rewards.fused_BG, settings.advantage)
    batch = build_batch(place, groups, advantages_BG, targets)
    update = UpdateSettings(
        temperature=settings.sampling.temperature,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        token_norm=settings.token_norm,
        token_weight=settings.token_weight,
        item_weight=settings.item_weight,
        item_softmax=settings.item_softmax,
        kl_weight=settings.kl_weight,
        micro_batch_rows=settings.micro_batch_rows,
    )
    old_items = old_item_logprobs(engine.model, batch, live, place.table, settings.item_softmax)
    lr = learning_rate(step, settings.lr, settings.warmup_steps)
    for number in range(settings.updates_per_rollout):
        figures, norm = update_policy(
            engine,
            batch,
            LiveRows(engine, place.table, targets) if number else live,
            place.table,
            old_items,
            update,
            pad_id=place.pad_id,
            lr=lr,
            reference=place.reference,
        )
    if step % settings.log_reasonings_every == 0 and groups:
        sample = groups[0].completions[0]
        sampled = sample.ids[: sample.num_sampled]
        text = place.encoder.reasoning_text(sampled, sample.finish_reason)
        place.journal.log_text("recpo", step, "reasoning", text)
    result = step_figures(place, groups, rewards, figures)
    tokens = sum(
        len(group.completions[0].prompt_ids) + sum(len(c.ids) for c in group.completions)
        for group in groups
    )
    return result | {
        "tokens_per_second": sum(world.gather(tokens)) / (time.monotonic() - start),
        "grad_norm": norm,
        "lr": lr,
        "rollout_seconds": rollout_seconds,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def refresh_table(place: Workplace, step: int, live: LiveRows) -> None:
    """The whole table every `refresh_every` steps; the batch's target rows before each reward."""
    if step % place.config.recpo.refresh_every == 0 or place.table.table_IH.numel() == 0:
        place.table.refresh(place.engine)
    else:
        place.table.put(live.index_C, live.rows_CH.detach())


def build_batch(
    place: Workplace, groups: list[Group], advantages_BG: Tensor, targets: list[int]
) -> UpdateBatch:
    """Put the global denominators beside this rank's rollouts."""
    settings = place.config.recpo
    samples = build_samples(groups, advantages_BG, skip_equal=settings.kl_weight == 0)
    sampled = sum(c.num_sampled for group in groups for c in group.completions)
    shares = place.world.gather((sampled, len(samples)))
    tokens, most_rows = sum(share[0] for share in shares), max(share[1] for share in shares)
    size = rows_per_micro_batch(settings.micro_batch_rows, settings.group_size)
    return UpdateBatch(
        groups=groups,
        samples=samples,
        targets_C=targets,
        num_users=len(targets),
        group_size=settings.group_size,
        mean_tokens=tokens / (len(targets) * settings.group_size),
        num_chunks=max(1, -(-most_rows // size)),
    )


def step_figures(
    place: Workplace, groups: list[Group], rewards: RolloutRewards, figures: UpdateFigures
) -> dict[str, float | None]:
    """Means over the global batch."""
    completions = [c for group in groups for c in group.completions]
    parts = place.world.gather(
        {
            "rewards": (rewards.fused_BG, rewards.discrete_BG, rewards.continuous_BG),
            "zero": int(zero_variance(rewards.fused_BG).sum()) if len(groups) else 0,
            "tokens": [c.num_sampled for c in completions],
            "reasons": [c.finish_reason for c in completions],
            "update": {name: getattr(figures, name) for name in UpdateFigures.__slots__},
        }
    )
    rewards_BG, discrete_BG, continuous_BG = (
        torch.cat([part["rewards"][kind] for part in parts if part["rewards"][kind].numel()])
        for kind in range(3)
    )
    lengths = [length for part in parts for length in part["tokens"]]
    reasons = [reason for part in parts for reason in part["reasons"]]
    total = {name: sum(part["update"][name] for part in parts) for name in UpdateFigures.__slots__}
    tokens = max(1.0, total["tokens"])
    return {
        "reward_mean": rewards_BG.mean().item(),
        "reward_discrete_mean": discrete_BG.mean().item(),
        "reward_continuous_mean": continuous_BG.mean().item(),
        "reward_std": rewards_BG.std(correction=0).item(),
        # What the advantages are made of; where it is near 0, the states pass over the reasoning.
        "reward_group_std": rewards_BG.std(dim=1, correction=0).mean().item(),
        "zero_variance_share": sum(part["zero"] for part in parts) / len(rewards_BG),
        "token_loss": total["token_loss"],
        "item_loss": total["item_loss"],
        "kl": total["kl"],
        "clip_fraction": total["clipped"] / tokens,
        "ratio_mean": total["ratio_sum"] / tokens if total["tokens"] else None,
        "ratio_max": max(part["update"]["ratio_max"] for part in parts),
        "entropy": total["entropy_sum"] / tokens,
        "reasoning_tokens": sum(lengths) / len(lengths),
        "marker_share": reasons.count("marker") / len(reasons),
        "length_share": reasons.count("length") / len(reasons),
    }
