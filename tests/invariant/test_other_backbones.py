"""Backbones that others bring: those that run give the states of a plain forward."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from r2ec.config import LoraConfig, ModelConfig, PromptConfig
from r2ec.errors import UsageError
from r2ec.model.checkpoint import load_base
from r2ec.model.context import check_context
from r2ec.sampler import SamplingSettings, sample
from tests.factories.models import PROMPT, examples_of, small_catalog, tokenizer_of

CATALOG = small_catalog()
EXAMPLES = examples_of(CATALOG, 4)
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SHAPE | {"intermediate_size": 64, "num_key_value_heads": 2, "initializer_range": 0.3}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
    "gpt_neox": SHAPE | {"intermediate_size": 64, "initializer_range": 0.3},
    # The last hidden states are projected to the width of the word embeddings.
    "opt": SHAPE | {"ffn_dim": 64, "word_embed_proj_dim": 16, "init_std": 0.3},
    "mistral": GROUPED | {"sliding_window": 24},
    "phi3": GROUPED,
    "gemma3_text": GROUPED | {"head_dim": 8, "sliding_window": 24},
}


def directory(folder: Path, family: str, chat_template: str | None = None, **shape: Any) -> str:
    """A Hugging Face directory of random weights with the tokenizer of the tests."""
    tokenizer = tokenizer_of()
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": None, "bos_token_id": None}
    given = {"vocab_size": len(tokenizer)} | ids | SHAPES.get(family, SHAPE) | shape
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **given))
    model.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if chat_template:
        (folder / "chat_template.jinja").write_text(chat_template)
    return str(folder)


def opened(path: str, prompt: PromptConfig = PROMPT, **settings: Any):
    """The model and its encoder, in float32."""
    config = ModelConfig(dtype="float32", **settings)
    model, encoder, _ = load_base(path, model=config, prompt=prompt)
    return model.eval(), encoder


def completions(model, encoder, max_new_tokens: int = 8):
    prompts = [encoder.user_ids(example.history, CATALOG) for example in EXAMPLES]
    keys = [example.history.user_id for example in EXAMPLES]
    settings = SamplingSettings(
        temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=max_new_tokens, seed=0
    )
    return sample(model, encoder, prompts, keys, settings, group_size=2, batch_rows=3)


@pytest.mark.parametrize("family", SHAPES)
def test_user_states_are_those_of_transformers_alone(tmp_path: Path, family: str) -> None:
    path = directory(tmp_path, family)
    model, encoder = opened(path)
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    for group in completions(model, encoder):
        for completion in group:
            ids = torch.tensor([[*completion.prompt_ids, *completion.ids]])
            with torch.no_grad():
                state_H = plain(ids, output_hidden_states=True).hidden_states[-1][0, -1]
            assert completion.state_H.shape == (model.hidden_size,)
            torch.testing.assert_close(completion.state_H, state_H, rtol=1e-4, atol=1e-4)


def test_a_backbone_that_takes_no_mask_of_ours_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    path = directory(tmp_path, "bloom", n_layer=2, n_head=4)
    with pytest.raises(UsageError, match="BloomForCausalLM takes no masks and caches"):
        opened(path)


def test_a_tokenizer_that_is_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    size = len(tokenizer_of())
    path = directory(tmp_path, "llama", **GROUPED, vocab_size=size - 3)
    with pytest.raises(UsageError, match=f"writes token {size - 1}.*{size - 3} rows"):
        opened(path)


def test_special_tokens_that_no_prompt_holds_may_lie_beyond_the_model(tmp_path: Path) -> None:
    path = directory(tmp_path, "llama", **GROUPED)
    file = tmp_path / "tokenizer.json"
    _, encoder = opened(path)
    encoder.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    encoder.tokenizer.save_pretrained(path)
    assert "[PAD]" in file.read_text()
    model, encoder = opened(path)
    assert len(encoder.tokenizer) == model.config.vocab_size + 1
    assert "[PAD]" in encoder.template.forbidden


def test_prompts_leave_room_for_the_reasoning_where_positions_end(tmp_path: Path) -> None:
    path = directory(tmp_path, "gpt2", n_positions=128)
    model, encoder = opened(path, PROMPT.model_copy(update={"title_chars": 20}))
    longest = max(examples_of(CATALOG, 40), key=lambda example: len(example.history.item_index))
    assert len(longest.history.item_index) == 5
    room = 128 - 8 - len(encoder.marker_ids)
    assert len(encoder.user_ids(longest.history, CATALOG, new_tokens=8)) < room
    assert len(encoder.item_ids(CATALOG.items[0])) < room
    with pytest.raises(UsageError, match="learned 128 positions"):
        completions(model, encoder, max_new_tokens=200)


def test_a_reasoning_that_no_position_is_left_for_is_refused(tmp_path: Path) -> None:
    _, encoder = opened(directory(tmp_path, "gpt2", n_positions=128))
    with pytest.raises(UsageError, match=r"a reasoning of 100 tokens .*lower --reasoning-budget"):
        check_context(encoder, 100, "--reasoning-budget")


def test_rotated_positions_are_those_it_was_trained_with(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    long = {"rope_parameters": yarn | {"rope_theta": 10000.0}}
    for name, shape, positions in (("plain", {}, 128), ("yarn", long, 512)):
        path = directory(tmp_path / name, "llama", **GROUPED, max_position_embeddings=128, **shape)
        model, encoder = opened(path)
        assert model.end_of_positions is None
        assert encoder.positions == positions


def test_adapters_of_projections_that_are_not_there_are_told(tmp_path: Path) -> None:
    lora = LoraConfig(rank=2, alpha=4)
    with pytest.raises(UsageError, match=r"target_modules.*no layers named q_proj.*has c_attn"):
        opened(directory(tmp_path / "gpt2", "gpt2"), lora=lora)
    with pytest.raises(UsageError, match=r"no layers named q_proj, k_proj, .*gate_up_proj"):
        opened(directory(tmp_path / "phi3", "phi3"), lora=lora)
    named = lora.model_copy(update={"target_modules": ("c_attn",)})
    model, _ = opened(str(tmp_path / "gpt2"), lora=named)
    assert any("lora" in name for name, _ in model.named_parameters())


DATED = (
    "{% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}"
    "{% else %}{% set day = 'no day' %}{% endif %}Today: {{ day }}\n"
    "{% for message in messages %}{{ message['content'] }}{% endfor %}"
)


def test_a_chat_template_that_tells_the_date_tells_one_date(tmp_path: Path) -> None:
    path = directory(tmp_path, "llama", **GROUPED, chat_template=DATED)
    _, encoder = opened(path)
    text = encoder.tokenizer.decode(encoder.item_ids(CATALOG.items[0]))
    assert text.startswith("Today: 26 Jul 2024\nItem: ")
