"""Invariants 4 and 7: the user state is the right one, and does not depend on the batch."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from r2ec.model.checkpoint import encoder_for
from r2ec.model.choice import choose_tokens, uniforms
from r2ec.model.dual_head import DualHeadModel
from r2ec.model.scratch import train_tokenizer
from r2ec.sampler import Completion, SamplingSettings, sample
from r2ec.text.tokens import PromptEncoder
from tests.factories.models import (
    FAMILIES,
    MARKER,
    PROMPT,
    examples_of,
    small_catalog,
    small_model,
    talking_model,
)

CATALOG = small_catalog()
EXAMPLES = examples_of(CATALOG, 7)
KEYS = [example.history.user_id for example in EXAMPLES]
GREEDY = SamplingSettings(temperature=0.0, top_k=0, top_p=1.0, max_new_tokens=12)
SAMPLED = SamplingSettings(temperature=1.2, top_k=30, top_p=0.95, max_new_tokens=12, seed=3)


def prompts_of(encoder: PromptEncoder) -> list[list[int]]:
    return [encoder.user_ids(example.history, CATALOG) for example in EXAMPLES]


def separate_state(model: DualHeadModel, completion: Completion) -> torch.Tensor:
    """The last hidden state of a forward of its own, without cache, padding or batch."""
    ids = torch.tensor([[*completion.prompt_ids, *completion.ids]])
    with torch.no_grad():
        output = model.causal_lm(input_ids=ids, output_hidden_states=True)
    return output.hidden_states[-1][0, -1].float()


def flatten(groups: Sequence[Sequence[Completion]]) -> list[Completion]:
    return [completion for group in groups for completion in group]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_user_state_equals_that_of_a_separate_forward(
    family: str, settings: SamplingSettings
) -> None:
    model, encoder = talking_model() if family == "qwen2" else small_model(family)
    groups = sample(model, encoder, prompts_of(encoder), KEYS, settings, group_size=2)
    assert len({len(c.prompt_ids) for c in flatten(groups)}) > 1
    for completion in flatten(groups):
        text = encoder.tokenizer.decode(completion.ids, skip_special_tokens=False)
        assert text.rstrip().endswith(MARKER)
        state = separate_state(model, completion)
        assert (completion.state_H - state).abs().max().item() < 1e-4


def test_rows_longer_than_a_sliding_window_have_the_right_state() -> None:
    model, encoder = small_model("gemma2")
    for config in (model.causal_lm.config, model.config):
        config.sliding_window = 16
    for layer in model.causal_lm.get_decoder().layers:
        if getattr(layer.self_attn, "sliding_window", None):
            layer.self_attn.sliding_window = 16
    for completion in flatten(sample(model, encoder, prompts_of(encoder), KEYS, SAMPLED)):
        state = separate_state(model, completion)
        assert (completion.state_H - state).abs().max().item() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("run_ahead", [2, 5, 16])
@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_steps_run_ahead_change_nothing(
    family: str, run_ahead: int, settings: SamplingSettings
) -> None:
    model, encoder = talking_model() if family == "qwen2" else small_model(family)
    settings = replace(settings, keep_support=settings.temperature > 0)
    prompts = prompts_of(encoder)
    plain, ahead = (
        flatten(
            sample(
                model, encoder, prompts, KEYS, settings, group_size=2, batch_rows=6, run_ahead=steps
            )
        )
        for steps in (1, run_ahead)
    )
    assert {c.finish_reason for c in plain} >= ({"marker"} if family == "qwen2" else {"length"})
    for one, other in zip(plain, ahead, strict=True):
        assert (one.ids, one.num_sampled) == (other.ids, other.num_sampled)
        assert one.finish_reason == other.finish_reason
        assert torch.allclose(one.logprobs_T, other.logprobs_T, atol=1e-5)
        assert torch.allclose(one.state_H, other.state_H, atol=1e-4)
        if one.support_TK is not None and other.support_TK is not None:
            assert torch.equal(one.support_TK, other.support_TK)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_rows", [2, 6, 64])
def test_reasonings_do_not_depend_on_batch_or_order(family: str, batch_rows: int) -> None:
    model, encoder = talking_model() if family == "qwen2" else small_model(family)
    prompts = prompts_of(encoder)
    whole = sample(model, encoder, prompts, KEYS, SAMPLED, group_size=2)
    back = sample(
        model, encoder, prompts[::-1], KEYS[::-1], SAMPLED, group_size=2, batch_rows=batch_rows
    )[::-1]
    for one, other in zip(flatten(whole), flatten(back), strict=True):
        assert one.ids == other.ids
        assert one.finish_reason == other.finish_reason
        assert (one.state_H - other.state_H).abs().max().item() < 1e-5
        assert (one.logprobs_T - other.logprobs_T).abs().max().item() < 1e-5


def test_rollouts_of_a_group_and_users_differ_by_their_seeds() -> None:
    model, encoder = small_model()
    prompt = prompts_of(encoder)[0]
    groups = sample(model, encoder, [prompt, prompt], ["a", "b"], SAMPLED, group_size=3)
    texts = [tuple(completion.ids) for completion in flatten(groups)]
    assert len(set(texts)) == 6


def test_greedy_takes_the_likeliest_token_at_each_place() -> None:
    model, encoder = small_model()
    for completion in flatten(sample(model, encoder, prompts_of(encoder), KEYS, GREEDY)):
        ids = torch.tensor([[*completion.prompt_ids, *completion.ids]])
        with torch.no_grad():
            likeliest = model.causal_lm(input_ids=ids).logits[0].argmax(dim=-1)
        first = len(completion.prompt_ids)
        expected = likeliest[first - 1 : first - 1 + completion.num_sampled].tolist()
        assert completion.ids[: completion.num_sampled] == expected


def test_every_position_is_drawn_with_a_number_of_its_own() -> None:
    model, encoder = small_model()
    completions = flatten(sample(model, encoder, prompts_of(encoder), KEYS, SAMPLED, group_size=2))
    drawn_NT = torch.from_numpy(uniforms(KEYS, 2, SAMPLED))
    for number, completion in enumerate(completions):
        ids = torch.tensor([[*completion.prompt_ids, *completion.ids]])
        first = len(completion.prompt_ids) - 1
        places = slice(first, first + completion.num_sampled)
        with torch.no_grad():
            logits_TV = model.causal_lm(input_ids=ids).logits[0, places].float()
        chosen = choose_tokens(logits_TV, drawn_NT[number, : completion.num_sampled], SAMPLED)
        assert chosen.ids_N.tolist() == completion.ids[: completion.num_sampled]


def test_draws_follow_the_distribution() -> None:
    logits_V = torch.tensor([2.0, 0.0, 1.0, -1.0])
    uniforms_N = (torch.arange(4000).double() + 0.5) / 4000
    for top_k, top_p in ((0, 1.0), (3, 1.0), (0, 0.8)):
        settings = SamplingSettings(temperature=2.0, top_k=top_k, top_p=top_p, max_new_tokens=1)
        chosen = choose_tokens(logits_V.expand(4000, 4), uniforms_N, settings)
        found = torch.bincount(chosen.ids_N, minlength=4) / 4000
        expected = (logits_V / 2).softmax(dim=0)
        kept = {(0, 1.0): 4, (3, 1.0): 3, (0, 0.8): 3}[top_k, top_p]
        cut = expected.argsort(descending=True)[kept:]
        expected[cut] = 0
        assert (found - expected / expected.sum()).abs().max() < 1e-3


def test_logprobs_are_those_of_the_sampling_temperature_over_the_full_vocabulary() -> None:
    model, encoder = small_model()
    for completion in flatten(sample(model, encoder, prompts_of(encoder), KEYS, SAMPLED)):
        ids = torch.tensor([[*completion.prompt_ids, *completion.ids]])
        with torch.no_grad():
            logits = model.causal_lm(input_ids=ids).logits[0].float() / SAMPLED.temperature
        first = len(completion.prompt_ids)
        for place, logprob in enumerate(completion.logprobs_T.tolist()):
            row = logits[first - 1 + place].log_softmax(dim=-1)
            assert row[completion.ids[place]].item() == pytest.approx(logprob, abs=1e-4)


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_reasoning_at_its_budget_gets_the_marker_forced(budget: int) -> None:
    model, encoder = small_model()
    settings = SamplingSettings(temperature=0.0, top_k=0, top_p=1.0, max_new_tokens=budget)
    for completion in flatten(sample(model, encoder, prompts_of(encoder), KEYS, settings)):
        if completion.finish_reason == "length":
            assert completion.num_sampled == budget
            assert tuple(completion.ids[budget:]) == encoder.marker_ids


def test_every_finish_reason_comes_up_and_is_told_rightly() -> None:
    model, encoder = talking_model()
    prompts, keys = prompts_of(encoder) * 6, [f"{key}{i}" for i in range(6) for key in KEYS]
    seen = set()
    settings = SamplingSettings(temperature=1.5, top_k=0, top_p=1.0, max_new_tokens=6, seed=1)
    for completion in flatten(sample(model, encoder, prompts, keys, settings)):
        seen.add(completion.finish_reason)
        sampled = completion.ids[: completion.num_sampled]
        text = encoder.tokenizer.decode(sampled, skip_special_tokens=False)
        assert (MARKER in text) == (completion.finish_reason == "marker")
        assert (sampled[-1] in encoder.stop_ids) == (completion.finish_reason == "eos")
    assert seen == {"marker", "eos", "length"}


def test_the_marker_is_found_however_it_is_split() -> None:
    _, encoder = small_model()
    characters = [encoder.tokenizer(c, add_special_tokens=False)["input_ids"] for c in MARKER]
    spelled = [token for ids in characters for token in ids]
    assert tuple(spelled) != encoder.marker_ids
    word = encoder.tokenizer("ink ", add_special_tokens=False)["input_ids"]
    for ids in (spelled, list(encoder.marker_ids), word + spelled):
        assert encoder.closes_marker(ids)
        for short, _ in pairwise(range(len(ids) + 1)):
            assert not encoder.closes_marker(ids[:short])


@pytest.mark.parametrize(
    "text", ["lamp<answer>. ink", "lamp <answer>\n\nink", "lamp (<answer>) ink", "<<answer>> ink"]
)
def test_the_marker_is_found_where_its_ends_are_parts_of_other_tokens(text: str) -> None:
    tokenizer = train_tokenizer(iter([text] * 40), 330)
    encoder = encoder_for(tokenizer, marker=MARKER, prompt=PROMPT, stop_ids=[])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    shown = [tokenizer.decode(ids[:length]) for length in range(1, len(ids) + 1)]
    first = next(length for length, seen in enumerate(shown, start=1) if MARKER in seen)
    assert tuple(ids[first - len(encoder.marker_ids) : first]) != encoder.marker_ids
    for length in range(1, first + 1):
        assert encoder.closes_marker(ids[:length]) == (length == first)


def test_lengths_that_disagree_and_empty_prompts_are_refused() -> None:
    model, encoder = small_model()
    with pytest.raises(ValueError, match="1 prompts but 2 keys"):
        sample(model, encoder, [[1]], ["a", "b"], GREEDY)
    with pytest.raises(ValueError, match="no tokens"):
        sample(model, encoder, [[]], ["a"], GREEDY)
