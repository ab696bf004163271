"""LoRA adapters of a run as one: each stage adds a change to the weights that the last one left.

    W + s·B₁A₁ + s·B₂A₂ = W + s·[B₁ B₂]·[A₁; A₂],   s = alpha / rank

so the adapters of the stages, put side by side, are one adapter of their summed rank on the base
model itself. The weights merged by a run and the base with this adapter agree up to rounding.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


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
