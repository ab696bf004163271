"""Reward, advantage and loss against figures worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r2ec.recpo import loss as terms
from r2ec.recpo.advantage import best_rollout, group_advantages, zero_variance
from r2ec.recpo.reward import discrete_rewards, fused_rewards

REWARDS = st.lists(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), min_size=1)


def test_discrete_reward_is_ndcg_with_one_target_up_to_the_cutoff() -> None:
    ranks = torch.tensor([[1, 3, 1000, 1001]])
    expected = [1.0, 1 / math.log2(4), 1 / math.log2(1001), 0.0]
    assert discrete_rewards(ranks, 1000)[0].tolist() == pytest.approx(expected)


def test_ranks_count_from_one() -> None:
    with pytest.raises(ValueError, match="count from 1"):
        discrete_rewards(torch.tensor([[0]]), 10)


def test_beta_mixes_the_continuous_and_the_discrete_reward() -> None:
    rewards = fused_rewards(
        torch.tensor([[1, 3]]), torch.tensor([[0.4, 0.2]]), beta=0.25, cutoff=10
    )
    assert rewards[0].tolist() == pytest.approx([0.25 * 0.4 + 0.75, 0.25 * 0.2 + 0.75 * 0.5])


@given(REWARDS)
def test_advantages_of_a_group_sum_to_zero(rewards: list[list[float]]) -> None:
    for kind in ("grpo", "rloo"):
        advantages = group_advantages(torch.tensor(rewards), kind)
        assert advantages.isfinite().all()
        assert advantages.sum(dim=1).abs().max() < 1e-3


def test_grpo_divides_by_the_standard_deviation_and_rloo_leaves_one_out() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert group_advantages(rewards, "grpo")[0, 0].item() == pytest.approx(0.75 / 0.4330127)
    rloo = group_advantages(rewards, "rloo")[0]
    assert rloo.tolist() == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 0.7])
def test_equal_rewards_give_exactly_zero_advantage(kind: str, reward: float) -> None:
    rewards = torch.full((3, 5), reward)
    assert (group_advantages(rewards, kind) == 0).all()
    assert zero_variance(rewards).all()


def test_rounding_of_equal_rewards_is_not_blown_up_and_small_true_differences_count() -> None:
    noise = torch.tensor([[0.3, 0.3 + 3e-8, 0.3 - 3e-8]])
    assert (group_advantages(noise) == 0).all()
    small = torch.tensor([[1e-6, 2e-6, 3e-6]])
    assert group_advantages(small)[0, 2].item() > 1.0


def test_a_group_of_one_and_an_unknown_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        group_advantages(torch.ones(3, 1))
    with pytest.raises(ValueError, match="grpo or rloo"):
        group_advantages(torch.ones(3, 2), "mean")


def test_the_best_rollout_is_the_first_of_the_largest() -> None:
    assert best_rollout(torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]])).tolist() == [1, 0]


def test_the_clip_stops_the_gradient_where_the_ratio_left_its_bounds_the_good_way() -> None:
    old = torch.zeros(4)
    new = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5])).requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss, ratio = terms.clipped_objective(new, old, advantages, clip_low=0.2, clip_high=0.2)
    assert loss.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert ratio.tolist() == pytest.approx([1.5, 1.5, 0.5, 0.5])
    loss.sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0])


def test_the_two_clip_bounds_work_apart() -> None:
    new, old = torch.log(torch.tensor([1.4, 0.6])), torch.zeros(2)
    advantages = torch.tensor([1.0, -1.0])
    wide, _ = terms.clipped_objective(new, old, advantages, clip_low=0.2, clip_high=0.5)
    assert wide.tolist() == pytest.approx([-1.4, 0.8])
    low, _ = terms.clipped_objective(new, old, advantages, clip_low=0.5, clip_high=0.2)
    assert low.tolist() == pytest.approx([-1.2, 0.6])


def test_token_norms_weigh_a_token_by_one_by_its_rollout_and_by_the_batch() -> None:
    lengths = torch.tensor([2, 6])
    weigh = lambda norm: terms.token_weights(lengths, norm=norm, mean_tokens=4.0).tolist()  # noqa: E731
    assert weigh("none") == [1.0, 1.0]
    assert weigh("length") == pytest.approx([1 / 2, 1 / 6])
    assert weigh("batch") == pytest.approx([1 / 4, 1 / 4])
    with pytest.raises(ValueError, match="none, length or batch"):
        weigh("tokens")


def test_candidates_leave_out_duplicates_of_the_target_and_the_own_history() -> None:
    candidates = torch.tensor([7, 3, 7, 5, 9])
    mask = terms.candidate_mask(torch.tensor([7, 9]), candidates, [{3}, {9, 5}])
    assert mask.tolist() == [[True, False, False, True, True], [True, True, True, False, True]]


def test_a_target_that_was_bought_before_stays_a_candidate() -> None:
    mask = terms.candidate_mask(torch.tensor([4]), torch.tensor([4, 2]), [{4}])
    assert mask.tolist() == [[True, True]]


def test_catalog_softmax_takes_the_live_row_at_the_target() -> None:
    torch.manual_seed(0)
    table, states = torch.randn(6, 8), torch.randn(2, 8)
    target = torch.tensor([4, 1])
    live = torch.randn(2, 8, requires_grad=True)
    logprobs = terms.catalog_logprobs(states, table, target, live, 0.5)
    for row in range(2):
        whole = table.clone()
        whole[target[row]] = live[row].detach()
        cosines = torch.nn.functional.cosine_similarity(states[row], whole)
        expected = (cosines / 0.5).log_softmax(dim=0)[target[row]]
        assert logprobs[row].item() == pytest.approx(expected.item(), abs=1e-5)
    logprobs.sum().backward()
    assert live.grad is not None
    assert live.grad.abs().sum() > 0


def test_kl_is_zero_for_equal_policies_and_positive_otherwise() -> None:
    same = torch.tensor([-1.0, -2.0])
    assert terms.kl_to_reference(same, same).tolist() == [0.0, 0.0]
    assert (terms.kl_to_reference(same, same + 0.5) > 0).all()
    assert (terms.kl_to_reference(same, same - 0.5) > 0).all()


def test_the_in_batch_softmax_of_popular_candidates_estimates_the_catalog_softmax() -> None:
    torch.manual_seed(0)
    items = torch.randn(6, 8)
    state = torch.randn(1, 8)
    # Target 2 three times, 4 twice, each other item once: shares by counts and one.
    drawn = [2, 2, 2, 4, 4, 0, 1, 3, 5]
    shares = terms.log_shares(drawn, 6)
    assert shares.exp().tolist() == pytest.approx([2 / 15, 2 / 15, 4 / 15, 2 / 15, 3 / 15, 2 / 15])
    whole = (torch.nn.functional.cosine_similarity(state, items) / 0.5).log_softmax(dim=0)
    candidates = torch.cat(
        [
            torch.full((round(15e3 * share),), item)
            for item, share in enumerate(shares.exp().tolist())
        ]
    )
    mask, column = torch.ones(1, len(candidates), dtype=torch.bool), torch.tensor([0])
    found = terms.in_batch_logprobs(state, items[candidates], mask, column, shares[candidates], 0.5)
    plain = terms.in_batch_logprobs(
        state, items[candidates], mask, column, torch.zeros(len(candidates)), 0.5
    )
    copies = math.log(2000)
    assert found.item() + copies == pytest.approx(whole[0].item(), abs=1e-4)
    assert abs(plain.item() + copies - whole[0].item()) > 0.1
