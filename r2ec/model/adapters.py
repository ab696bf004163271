"""LoRA adapters: made for a stage, and those of a run's stages joined to one.

Each stage adds a change to the weights that the last one left:

    W + s·B₁A₁ + s·B₂A₂ = W + s·[B₁ B₂]·[A₁; A₂],   s = alpha / rank

so the adapters of the stages, put side by side, are one adapter of their summed rank on the base
model itself. The weights merged by a run and the base with this adapter agree up to rounding.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from r2ec.config import LoraConfig
from r2ec.errors import UsageError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add_adapters(causal_lm: Any, lora: LoraConfig, *, base: str, seed: int = 0) -> Any:
    """Wrap a causal LM with LoRA adapters (peft); only they are trained. They name `base`.

    One half of each is drawn by `seed`, whatever was drawn before, so that a stage begins alike in
    a run that was taken up again; the other half is 0.
    Raises `UsageError` for a target that no layer of the model is named by.
    """
    import peft

    _check_targets(causal_lm, lora.target_modules, base)
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.target_modules),
        # GPT-2 keeps the weights of its projections the other way round.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in causal_lm.modules()),
        task_type="CAUSAL_LM",
    )
    # peft draws from the global generator alone.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped: Any = peft.get_peft_model(causal_lm, settings)
    wrapped.active_peft_config.base_model_name_or_path = base
    return wrapped


def _check_targets(causal_lm: Any, targets: Sequence[str], base: str) -> None:
    """As peft matches them: the end of a layer's dotted name."""
    layers = dict(causal_lm.named_modules())
    unknown = [
        target
        for target in targets
        if not any(f".{name}".endswith(f".{target}") for name in layers)
    ]
    if unknown:
        blocks = {name.rpartition(".")[2] for name, layer in layers.items() if _is_matrix(layer)}
        raise UsageError(
            f"model.lora.target_modules: {base} has no layers named {', '.join(unknown)}; it has"
            f" {', '.join(sorted(blocks))}"
        )


def _is_matrix(layer: Any) -> bool:
    """A layer with a weight of two dimensions of its own, the tables of embeddings aside."""
    weight = getattr(layer, "weight", None)
    is_table = isinstance(layer, torch.nn.Embedding)
    return weight is not None and weight.dim() == 2 and not is_table


def join_adapters(stages: Sequence[Path], target: Path, *, base: str) -> None:
    """Write the adapter on the model at `base` that does what those of `stages` do one by one.

    Each is a folder that peft wrote; the second was trained on the weights merged with the first,
    and so on. Raises `ValueError` where they differ in alpha / rank, or in the layers they change.
    """
    configs = [json.loads((stage / CONFIG).read_text(encoding="utf-8")) for stage in stages]
    weights = [load_file(stage / WEIGHTS) for stage in stages]
    if len({config["lora_alpha"] / config["r"] for config in configs}) > 1:
        raise ValueError(f"adapters of different alpha / rank cannot be joined: {stages}")
    if any(one.keys() != weights[0].keys() for one in weights):
        raise ValueError(f"adapters of different layers cannot be joined: {stages}")
    joined = configs[0] | {
        "base_model_name_or_path": base,
        "r": sum(config["r"] for config in configs),
        "lora_alpha": sum(config["lora_alpha"] for config in configs),
    }
    target.mkdir(parents=True)
    save_file({name: _joined(name, weights) for name in weights[0]}, target / WEIGHTS)
    (target / CONFIG).write_text(json.dumps(joined, indent=2) + "\n", encoding="utf-8")


def _joined(name: str, weights: Sequence[dict[str, Tensor]]) -> Tensor:
    """A is (rank, in), B is (out, rank): both grow along the rank."""
    return torch.cat([one[name] for one in weights], dim=0 if "_A" in name else 1).contiguous()
