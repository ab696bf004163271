"""Adapters of several stages are one adapter on the model that the first began with."""

from pathlib import Path

import peft
import pytest
import torch

from r2ec.config import LoraConfig
from r2ec.model.adapters import add_adapters, join_adapters
from tests.factories.models import small_model

# peft asks transformers by a name that is going away.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

IDS = torch.tensor([[5, 6, 7, 8]])


def logits(causal_lm) -> torch.Tensor:
    with torch.no_grad():
        return causal_lm(input_ids=IDS).logits


def trained_stage(causal_lm, folder: Path, *, seed: int, alpha: int = 8, layers=("q_proj",)):
    """Wrap a model, move the adapters as training would, keep them, and return the merged model."""
    lora = LoraConfig(rank=2, alpha=alpha, target_modules=layers)
    causal_lm.config.save_pretrained(folder)  # peft looks there, and else in the network
    wrapped = add_adapters(causal_lm, lora, base=str(folder))
    source = torch.Generator().manual_seed(seed)
    for name, value in wrapped.named_parameters():
        if "lora_" in name:
            value.data = torch.randn(value.shape, generator=source) / 10
    wrapped.save_pretrained(folder)
    return wrapped.merge_and_unload()


def test_joined_adapters_do_on_the_base_what_the_stages_did_one_by_one(tmp_path: Path) -> None:
    model, _ = small_model()
    before = logits(model.causal_lm)
    layers = ("q_proj", "v_proj", "down_proj")
    after = model.causal_lm
    for stage in (0, 1):
        after = trained_stage(after, tmp_path / str(stage), seed=stage, layers=layers)
    merged = logits(after)
    join_adapters([tmp_path / "0", tmp_path / "1"], tmp_path / "joined", base="the base")
    base, _ = small_model()
    joined = peft.PeftModel.from_pretrained(base.causal_lm, str(tmp_path / "joined"))
    assert torch.allclose(logits(joined), merged, atol=1e-4)
    assert not torch.allclose(before, merged, atol=1e-2)
    assert joined.active_peft_config.base_model_name_or_path == "the base"
    assert joined.active_peft_config.r == 4


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for name, more in (("a", {}), ("b", {"alpha": 16}), ("c", {"layers": ("v_proj",)})):
        trained_stage(small_model()[0].causal_lm, tmp_path / name, seed=1, **more)
    for other, words in (("b", "alpha / rank"), ("c", "layers")):
        with pytest.raises(ValueError, match=words):
            join_adapters([tmp_path / "a", tmp_path / other], tmp_path / "x", base="")
