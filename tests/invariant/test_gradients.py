"""Invariants 1 to 3: whose advantage trains what, any cut of the batch, true ratios.

The expected gradients are worked out here by plain autograd, one rollout at a time, with nothing
of the trainer's own loss.
"""

import pytest
import torch
from torch import Tensor

from r2ec.recpo.advantage import group_advantages
from r2ec.recpo.engine import World
from r2ec.recpo.rollout import policy_pass, sampled_places
from r2ec.sampler import Completion
from tests.factories.models import FAMILIES, TAU
from tests.factories.training import (
    SETTINGS,
    Bench,
    Gradients,
    distance,
    largest,
    training_bench,
    with_settings,
)


@pytest.fixture(scope="module")
def bench(world: World) -> Bench:
    return training_bench(world)


def plain_logprobs(bench: Bench, completion: Completion) -> Tensor:
    """Log-probabilities of the sampled tokens by the backbone's own logits, one row alone."""
    ids = torch.tensor([[*completion.prompt_ids, *completion.ids]])
    logits = bench.engine.model.causal_lm(input_ids=ids).logits[0].float() / SETTINGS.temperature
    first = len(completion.prompt_ids)
    rows = range(first, first + completion.num_sampled)
    return torch.stack([logits[row - 1].log_softmax(dim=-1)[ids[0, row]] for row in rows])


def plain_gradient(bench: Bench, loss: Tensor) -> Gradients:
    parameters = dict(bench.engine.model.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if grad is None else grad
        for (name, value), grad in zip(parameters.items(), grads, strict=True)
    }


def one_hot(user: int, rollout: int) -> Tensor:
    advantages = torch.zeros(3, 3)
    advantages[user, rollout] = 1.5
    return advantages


@pytest.mark.parametrize(("user", "rollout"), [(0, 0), (1, 2), (2, 1)])
def test_a_rollout_is_trained_by_its_own_advantage_alone(
    bench: Bench, user: int, rollout: int
) -> None:
    gradients, _ = bench.update(one_hot(user, rollout))
    own = plain_logprobs(bench, bench.groups[user].completions[rollout]).sum()
    expected = plain_gradient(bench, -1.5 * own / 9)
    assert largest(expected) > 1e-3
    assert distance(gradients, expected) < 1e-4


def test_gradients_of_different_advantages_add_up(bench: Bench) -> None:
    torch.manual_seed(0)
    advantages = torch.randn(3, 3)
    together, _ = bench.update(advantages)
    total = {name: torch.zeros_like(value) for name, value in together.items()}
    for user in range(3):
        for rollout in range(3):
            alone, _ = bench.update(one_hot(user, rollout))
            for name in total:
                total[name] += alone[name] * advantages[user, rollout] / 1.5
    assert distance(together, total) < 1e-4


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_equal_rewards_give_no_gradient(bench: Bench, kind: str) -> None:
    advantages = group_advantages(torch.full((3, 3), 0.37), kind)
    gradients, figures = bench.update(advantages, with_settings(item_weight=1.0))
    assert largest(gradients) == 0.0
    assert figures.token_loss == 0.0
    assert figures.item_loss == 0.0


def test_whole_groups_in_a_micro_batch_still_train_the_reasoning(bench: Bench) -> None:
    # The mean of a whole group's advantages is 0: weighing tokens by it would train nothing.
    advantages = group_advantages(torch.rand(3, 3, generator=torch.Generator().manual_seed(3)))
    gradients, _ = bench.update(advantages)
    assert largest(gradients) > 1e-3


@pytest.mark.parametrize("item_softmax", ["in_batch", "catalog"])
def test_the_item_term_trains_the_best_rollout_and_the_item_prompts(
    bench: Bench, item_softmax: str
) -> None:
    advantages = torch.tensor([[0.5, -0.2, 0.1], [0.0, 0.0, 1.2], [-1.0, -0.3, -0.5]])
    settings = with_settings(item_weight=2.0, item_softmax=item_softmax)
    both, _ = bench.update(advantages, settings)
    tokens, _ = bench.update(advantages)
    item = {name: both[name] - tokens[name] for name in both}
    loss = torch.zeros(())
    for user, best in ((0, 0), (1, 2), (2, 1)):
        completion = bench.groups[user].completions[best]
        advantage = advantages[user, best]
        loss = loss - 2.0 * advantage * plain_item_logprob(bench, user, completion, item_softmax)
    expected = plain_gradient(bench, loss / 9)
    assert largest(expected) > 1e-3
    assert distance(item, expected) < 1e-3


def plain_item_logprob(bench: Bench, user: int, completion: Completion, softmax: str) -> Tensor:
    """log pi(target) with a ratio of 1: rows of the batch's targets live, the others constant."""

    def state(ids: list[int]) -> Tensor:
        output = bench.engine.model.causal_lm(
            input_ids=torch.tensor([ids]), output_hidden_states=True
        )
        return torch.nn.functional.normalize(output.hidden_states[-1][0, -1].float(), dim=0)

    own = bench.groups[user].target_index
    rows = bench.table.rows
    user_state = state([*completion.prompt_ids, *completion.ids])
    if softmax == "catalog":
        table = torch.nn.functional.normalize(bench.table.table_IH, dim=1)
        keys = [state(rows[i]) if i == own else table[i] for i in range(len(rows))]
        return (torch.stack(keys) @ user_state / TAU).log_softmax(dim=0)[own]
    seen = set(bench.groups[user].example.history.item_index)
    others = [g.target_index for g in bench.groups if g.target_index != own]
    competitors = [own, *(item for item in others if item not in seen)]
    keys = [state(rows[item]) for item in competitors]
    return (torch.stack(keys) @ user_state / TAU).log_softmax(dim=0)[0]


@pytest.mark.parametrize("norm", ["none", "length", "batch"])
def test_any_cut_into_micro_batches_gives_the_same_gradient(bench: Bench, norm: str) -> None:
    advantages = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    whole, _ = bench.update(advantages, with_settings(item_weight=1.0, token_norm=norm))
    for rows in (1, 2, 4):
        cut, _ = bench.update(
            advantages, with_settings(item_weight=1.0, token_norm=norm, micro_batch_rows=rows)
        )
        assert distance(cut, whole) < 1e-4


def test_token_norms_weigh_rollouts_differently(bench: Bench) -> None:
    advantages = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    results = [bench.update(advantages, with_settings(token_norm=n))[0] for n in ("none", "length")]
    assert distance(*results) > 0.05


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keep_support", [False, True])
def test_the_ratio_is_one_on_the_first_update(
    world: World, family: str, keep_support: bool
) -> None:
    bench = training_bench(world, family=family, top_k=20, keep_support=keep_support)
    _, figures = bench.update(torch.randn(3, 3), with_settings(item_weight=1.0))
    assert figures.tokens == sum(c.num_sampled for g in bench.groups for c in g.completions)
    assert figures.ratio_sum / figures.tokens == pytest.approx(1.0, abs=1e-4)
    assert figures.ratio_max == pytest.approx(1.0, abs=1e-3)
    assert figures.clipped == 0


def test_the_ratio_leaves_one_once_the_weights_moved(world: World) -> None:
    bench = training_bench(world)
    with torch.no_grad():
        for parameter in bench.engine.model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    _, figures = bench.update(torch.randn(3, 3))
    assert figures.ratio_max > 1.05
    assert figures.clipped > 0


def test_trained_ids_are_the_sampled_ids_and_forced_tokens_do_not_train(bench: Bench) -> None:
    completions = [c for group in bench.groups for c in group.completions]
    assert {c.finish_reason for c in completions} > {"length"}, "both kinds are needed here"
    whole = [[*c.prompt_ids, *c.ids] for c in completions]
    first = [len(c.prompt_ids) for c in completions]
    rows, before = sampled_places(completions, [place - 1 for place in first], first)
    trained = [whole[row][place + 1] for row, place in zip(rows, before, strict=True)]
    assert trained == [token for c in completions for token in c.ids[: c.num_sampled]]
    forced = [len(c.ids) - c.num_sampled for c in completions]
    assert all(
        (f == 0) == (c.finish_reason == "marker") for f, c in zip(forced, completions, strict=True)
    )
    new = policy_pass(
        bench.engine.model, completions, pad_id=bench.pad_id, temperature=SETTINGS.temperature
    )
    assert new.logprobs_T.numel() == sum(c.num_sampled for c in completions)
