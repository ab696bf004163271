"""A rollout batch on a tiny model, and an engine that keeps its gradient instead of stepping."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from r2ec.recpo.engine import Engine, World
from r2ec.recpo.items import ItemTable, LiveRows
from r2ec.recpo.rollout import Group, sample_rollouts
from r2ec.recpo.update import (
    UpdateBatch,
    UpdateFigures,
    UpdateSettings,
    build_samples,
    old_item_logprobs,
    rows_per_micro_batch,
    update_policy,
)
from r2ec.sampler import SamplingSettings
from r2ec.text.tokens import PromptEncoder
from tests.factories.models import examples_of, small_catalog, small_model, talking_model

Gradients = dict[str, Tensor]

SETTINGS = UpdateSettings(
    temperature=1.3,
    clip_low=0.2,
    clip_high=0.2,
    token_norm="none",
    token_weight=1.0,
    item_weight=0.0,
    item_softmax="in_batch",
    kl_weight=0.0,
    micro_batch_rows=64,
)


class GradientEngine(Engine):
    """The real engine, whose step takes the gradient away instead of moving the weights."""

    def step(self, lr: float) -> float | None:
        self.gradients: Gradients = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
            for name, p in self.model.named_parameters()
        }
        for parameter in self.model.parameters():
            parameter.grad = None
        return None


@dataclass(slots=True)
class Bench:
    """Everything an update needs, with rollouts sampled from the current weights."""

    engine: GradientEngine
    encoder: PromptEncoder
    table: ItemTable
    groups: list[Group]

    @property
    def pad_id(self) -> int:
        return next(iter(self.encoder.stop_ids))

    def update(
        self, advantages_BG: Tensor, settings: UpdateSettings = SETTINGS
    ) -> tuple[Gradients, UpdateFigures]:
        """Gradient and figures of one update with these advantages."""
        batch = self.batch(advantages_BG, settings.micro_batch_rows)
        live = LiveRows(self.engine, self.table, batch.targets_C)
        old = old_item_logprobs(self.engine.model, batch, live, self.table, settings.item_softmax)
        figures, _ = update_policy(
            self.engine, batch, live, self.table, old, settings, pad_id=self.pad_id, lr=0.0
        )
        return self.engine.gradients, figures

    def batch(self, advantages_BG: Tensor, micro_batch_rows: int) -> UpdateBatch:
        num_users, group_size = advantages_BG.shape
        sampled = sum(c.num_sampled for group in self.groups for c in group.completions)
        return UpdateBatch(
            groups=self.groups,
            samples=build_samples(self.groups, advantages_BG, skip_equal=False),
            targets_C=[group.target_index for group in self.groups],
            num_users=num_users,
            group_size=group_size,
            mean_tokens=sampled / (num_users * group_size),
            num_chunks=-(
                -num_users * group_size // rows_per_micro_batch(micro_batch_rows, group_size)
            ),
        )


def training_bench(
    world: World,
    *,
    num_users: int = 3,
    group_size: int = 3,
    family: str = "qwen2",
    top_k: int = 0,
    keep_support: bool = False,
) -> Bench:
    """A model of random weights, its item table and its rollouts."""
    catalog = small_catalog()
    model, encoder = talking_model() if family == "qwen2" else small_model(family)
    engine = GradientEngine(world, model, zero_stage=0, gradient_clipping=1e9, weight_decay=0.0)
    table = ItemTable(
        world, [encoder.item_ids(item) for item in catalog.items], next(iter(encoder.stop_ids))
    )
    table.refresh(engine)
    settings = SamplingSettings(
        temperature=SETTINGS.temperature,
        top_k=top_k,
        top_p=1.0,
        max_new_tokens=8,
        keep_support=keep_support,
        seed=5,
    )
    groups = sample_rollouts(
        model,
        encoder,
        catalog,
        examples_of(catalog, num_users),
        settings,
        step=0,
        group_size=group_size,
        batch_rows=64,
    )
    return Bench(engine=engine, encoder=encoder, table=table, groups=groups)


def distance(a: Gradients, b: Gradients) -> float:
    """Largest difference relative to the largest entry of `b`."""
    size = max(value.abs().max().item() for value in b.values())
    return max((a[name] - b[name]).abs().max().item() for name in b) / max(size, 1e-12)


def largest(gradients: Gradients) -> float:
    """Largest absolute entry."""
    return max(value.abs().max().item() for value in gradients.values())


def with_settings(**changes: object) -> UpdateSettings:
    """The settings of these tests, with changes."""
    return replace(SETTINGS, **changes)  # type: ignore[arg-type]
