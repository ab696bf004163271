"""The proof that reasoning is trained: RecPO learns to write the word that makes the target rise.

A tiny model is taught that its user state lies at the last item bought where the reasoning has the
word `lens`, and at another item where it has not; it writes that word in a few of a hundred
reasonings. Nothing but the rank of the target then tells it to write it more often.
"""

import random
from dataclasses import replace

import pytest
import torch

from r2ec.model.dual_head import DualHeadModel
from r2ec.recpo.advantage import group_advantages
from r2ec.recpo.engine import Engine, World
from r2ec.recpo.items import ItemTable, LiveRows
from r2ec.recpo.rollout import Group, sample_rollouts
from r2ec.recpo.rollout_rewards import rollout_rewards
from r2ec.recpo.update import (
    Sample,
    UpdateBatch,
    UpdateSettings,
    build_samples,
    old_item_logprobs,
    update_policy,
)
from r2ec.retrieval.embed import encode_rows
from r2ec.sampler import SamplingSettings
from r2ec.tables import Example
from r2ec.text.tokens import PromptEncoder
from tests.factories.models import examples_of, small_catalog, small_model

WORD = " lens"
OTHERS = (" red", " blue", " green", " printer", " paper", " guitar", " string", " camera")
WORD_SHARE = 0.01
LENGTH = 3
USERS, GROUP, STEPS = 8, 8, 100
CATALOG = small_catalog()
Taught = tuple[dict[str, torch.Tensor], DualHeadModel, PromptEncoder]

pytestmark = pytest.mark.slow


def planted_examples() -> list[Example]:
    """The target is the item bought last."""
    return [
        replace(example, target_index=example.history.item_index[-1])
        for example in examples_of(CATALOG, 64, seed=4)
    ]


def taught_model() -> tuple[DualHeadModel, PromptEncoder]:
    """A model that writes the word rarely, and ranks the target first only after it."""
    torch.manual_seed(0)
    model, encoder = small_model(initializer_range=0.1)
    source = random.Random(0)
    examples = planted_examples()
    items = [encoder.item_ids(item) for item in CATALOG.items]
    pad = next(iter(encoder.stop_ids))

    def words(share: float) -> tuple[list[int], bool]:
        chosen = [WORD if source.random() < share else source.choice(OTHERS) for _ in range(LENGTH)]
        ids = encoder.tokenizer("".join(chosen), add_special_tokens=False)["input_ids"]
        return [*ids, *encoder.marker_ids], WORD in chosen

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        batch = source.sample(examples, 16)
        prompts = [encoder.user_ids(example.history, CATALOG) for example in batch]
        optimizer.zero_grad()
        loss = language_loss(model, prompts, [words(WORD_SHARE)[0] for _ in batch])
        planted = [words(0.3) for _ in batch]
        target_B = torch.tensor(
            [
                example.target_index if has_word else (example.target_index + 7) % 30
                for example, (_, has_word) in zip(batch, planted, strict=True)
            ]
        )
        rows = [prompt + ids for prompt, (ids, _) in zip(prompts, planted, strict=True)]
        states_BH = torch.nn.functional.normalize(encode_rows(model, rows, pad_id=pad), dim=-1)
        items_IH = torch.nn.functional.normalize(encode_rows(model, items, pad_id=pad), dim=-1)
        logits_BI = states_BH @ items_IH.T / model.temperature
        (loss + torch.nn.functional.cross_entropy(logits_BI, target_B)).backward()
        optimizer.step()
    return model, encoder


def language_loss(
    model: DualHeadModel, prompts: list[list[int]], replies: list[list[int]]
) -> torch.Tensor:
    """Mean loss of the replies' tokens."""
    rows = [prompt + reply for prompt, reply in zip(prompts, replies, strict=True)]
    length = max(len(row) for row in rows)
    ids_BL = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    labels_BL = torch.full_like(ids_BL, -100)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        labels_BL[row, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
    mask_BL = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    logits_BLV = model.logits(model.hidden_states(ids_BL, mask_BL))
    return torch.nn.functional.cross_entropy(
        logits_BLV[:, :-1].flatten(0, 1), labels_BL[:, 1:].flatten()
    )


@pytest.fixture(scope="module")
def taught() -> Taught:
    model, encoder = taught_model()
    share = share_with_word(encoder, rollouts(encoder, model, 1000, planted_examples()))
    assert share < 0.1, "the word must be rare before the training"
    return {name: value.clone() for name, value in model.state_dict().items()}, model, encoder


def mean_advantages(samples: list[Sample], rows: int) -> list[Sample]:
    """The public code's fault: all rollouts of a micro-batch weighted by its mean advantage."""
    changed = []
    for start in range(0, len(samples), rows):
        part = samples[start : start + rows]
        mean = sum(sample.advantage for sample in part) / len(part)
        changed += [replace(sample, advantage=mean) for sample in part]
    return changed


def share_with_word(encoder: PromptEncoder, groups: list[Group]) -> float:
    texts = [
        encoder.tokenizer.decode(c.ids[: c.num_sampled]) for g in groups for c in g.completions
    ]
    return sum(WORD in f" {text}" for text in texts) / len(texts)


def rollouts(
    encoder: PromptEncoder, model: DualHeadModel, step: int, users: list[Example]
) -> list[Group]:
    sampling = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=12, seed=1)
    return sample_rollouts(
        model, encoder, CATALOG, users, sampling, step=step, group_size=GROUP, batch_rows=64
    )


def train(
    world: World, taught: Taught, *, token_weight: float, item_weight: float, faulty: bool = False
) -> float:
    """Share of reasonings with the word after the training."""
    weights, model, encoder = taught
    model.load_state_dict(weights)
    engine = Engine(world, model, zero_stage=0, gradient_clipping=1.0, weight_decay=0.0)
    pad = next(iter(encoder.stop_ids))
    table = ItemTable(world, [encoder.item_ids(item) for item in CATALOG.items], pad)
    settings = UpdateSettings(
        temperature=1.0,
        clip_low=0.2,
        clip_high=0.2,
        token_norm="length",
        token_weight=token_weight,
        item_weight=item_weight,
        item_softmax="in_batch",
        kl_weight=0.0,
        micro_batch_rows=2 * GROUP,
    )
    examples = planted_examples()

    for step in range(STEPS):
        users = random.Random(step).sample(examples, USERS)
        groups = rollouts(encoder, model, step, users)
        targets = [group.target_index for group in groups]
        table.refresh(engine)
        rewards_BG = rollout_rewards(model, groups, table.table_IH, beta=0.05, cutoff=1000).fused_BG
        samples = build_samples(groups, group_advantages(rewards_BG), skip_equal=True)
        if faulty:
            samples = mean_advantages(samples, settings.micro_batch_rows)
        batch = UpdateBatch(
            groups=groups,
            samples=samples,
            targets_C=targets,
            num_users=USERS,
            group_size=GROUP,
            mean_tokens=1.0,
            num_chunks=USERS * GROUP // settings.micro_batch_rows,
        )
        live = LiveRows(engine, table, targets)
        old = old_item_logprobs(model, batch, live, table, settings.item_softmax)
        update_policy(engine, batch, live, table, old, settings, pad_id=pad, lr=1e-3)
    return share_with_word(encoder, rollouts(encoder, model, 2000, examples))


def test_recpo_learns_to_write_the_word(world: World, taught: Taught) -> None:
    assert train(world, taught, token_weight=1.0, item_weight=0.0) > 0.9


def test_the_item_term_alone_does_not_teach_the_word(world: World, taught: Taught) -> None:
    assert train(world, taught, token_weight=0.0, item_weight=1.0) < 0.12


def test_the_mean_advantage_of_a_micro_batch_does_not_teach_the_word(
    world: World, taught: Taught
) -> None:
    assert train(world, taught, token_weight=1.0, item_weight=0.0, faulty=True) < 0.12
