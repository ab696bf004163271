"""Base models that are too short, damaged, or without the layers that adapters were asked for."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from r2ec.config import EvaluationConfig, LoraConfig, ModelConfig, RecpoConfig, TrainConfig
from r2ec.errors import UsageError
from r2ec.model.adapters import add_adapters
from r2ec.model.checkpoint import load_base
from r2ec.model.context import check_context
from r2ec.model.dual_head import DualHeadModel
from tests.factories.models import PROMPT, small_model, tokenizer_of

# The marker takes a few tokens of its own.
ROOM = PROMPT.max_prompt_tokens + 20


def model_with_learned_positions(positions: int) -> DualHeadModel:
    tokenizer = tokenizer_of()
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)
    config.n_positions = positions
    return DualHeadModel(GPT2LMHeadModel(config).eval(), temperature=0.1)


def test_shorter_prompts_for_the_reasoning_are_told(caplog: pytest.LogCaptureFixture) -> None:
    encoder = replace(small_model()[1], positions=ROOM)
    with caplog.at_level(logging.WARNING):
        check_context(encoder, 4, "--a")
        assert caplog.text == ""
        check_context(encoder, 40, "recpo.sampling.max_new_tokens")
    room = ROOM - 40 - len(encoder.marker_ids)
    assert f"has {ROOM} positions" in caplog.text
    assert "a reasoning of 40 tokens (recpo.sampling.max_new_tokens)" in caplog.text
    assert f"leaves {room} of them" in caplog.text
    assert f"prompt.max_prompt_tokens = {PROMPT.max_prompt_tokens}" in caplog.text


def test_a_reasoning_that_leaves_no_room_for_a_prompt_is_refused() -> None:
    encoder = replace(small_model()[1], positions=ROOM)
    with pytest.raises(UsageError, match=r"leaves 0 of them .*: lower --reasoning-budget, or take"):
        check_context(encoder, ROOM, "--reasoning-budget")


def test_the_longest_reasoning_of_a_run_names_its_setting() -> None:
    sampled = TrainConfig(recpo=RecpoConfig(steps=1), evaluation=EvaluationConfig())
    assert sampled.longest_reasoning == (512, "recpo.sampling.max_new_tokens")
    read = TrainConfig(evaluation=EvaluationConfig(reasoning_budget=96))
    assert read.longest_reasoning == (96, "evaluation.reasoning_budget")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model, encoder = small_model()
    with torch.no_grad():
        model.causal_lm.get_decoder().layers[1].mlp.down_proj.weight[3, 5] = torch.nan
    model.causal_lm.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"hidden states that are not finite in torch\.float32"):
        load_base(str(tmp_path), model=ModelConfig(dtype="float32"), prompt=PROMPT)


def test_adapters_on_layers_that_are_not_there_are_refused_with_those_that_are() -> None:
    model = model_with_learned_positions(64).causal_lm
    with pytest.raises(UsageError, match=r"no layers named k_proj, q_proj; it has c_attn, c_fc"):
        add_adapters(
            model, LoraConfig(rank=2, target_modules=("k_proj", "q_proj", "c_attn")), base="gpt2"
        )
    named = LoraConfig(rank=2, target_modules=("self_attn.q_proj",))
    adapted = add_adapters(small_model()[0].causal_lm, named, base="-")
    assert {n.split(".")[-4] for n, p in adapted.named_parameters() if p.requires_grad} == {
        "q_proj"
    }


def test_adapters_are_drawn_by_their_seed_whatever_was_drawn_before() -> None:
    """A stage of a run that was taken up again begins with those of a run left alone."""

    def drawn(seed: int, before: int = 0) -> dict[str, torch.Tensor]:
        model = small_model()[0].causal_lm
        torch.rand(before)
        model = add_adapters(model, LoraConfig(rank=2), base="-", seed=seed)
        return {name: p for name, p in model.named_parameters() if "lora_A" in name}

    one, again, other = drawn(1), drawn(1, before=3), drawn(2)
    assert one
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)
