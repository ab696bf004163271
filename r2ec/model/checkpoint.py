"""Model directories: what `save_pretrained` writes, the adapters, and `r2ec.json`.

`transformers` alone opens a saved directory; `r2ec.json` adds what makes it a recommender: tau,
marker, prompt template, the catalog it was trained on, the training configuration and metrics.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from r2ec.config import ModelConfig, PromptConfig
from r2ec.errors import NotReadyError, UsageError
from r2ec.model.adapters import add_adapters, join_adapters
from r2ec.model.card import CARD, ModelCard, check_hugging_face, fingerprint_of, load_card
from r2ec.model.dual_head import DualHeadModel
from r2ec.model.limits import (
    FED_AHEAD,
    check_vocabulary,
    learned_positions,
    trained_positions,
)
from r2ec.text.tokens import PromptEncoder, build_encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A model directory in memory, ready to sample and to rank."""

    path: str
    card: ModelCard
    model: DualHeadModel
    encoder: PromptEncoder
    tokenizer: PreTrainedTokenizerBase


def load_base(
    path: str,
    *,
    model: ModelConfig,
    prompt: PromptConfig,
    device: str = "cpu",
    recompute: bool = False,
    seed: int = 0,
) -> tuple[DualHeadModel, PromptEncoder, PreTrainedTokenizerBase]:
    """Open a plain Hugging Face directory as a dual-head model with these settings.

    `recompute` saves memory in training (see `DualHeadModel`); new adapters are drawn by `seed`.
    Raises `NotReadyError` if the directory or its files are missing or damaged, `UsageError` for a
    tokenizer or a kind of model that cannot be used.
    """
    opened = _open_dual_head(
        path, model=model, prompt=prompt, device=device, recompute=recompute, seed=seed
    )
    dual, encoder, tokenizer = opened
    check_vocabulary(dual.causal_lm, tokenizer, encoder, path)
    return opened


def _open_dual_head(
    path: str,
    *,
    model: ModelConfig,
    prompt: PromptConfig,
    device: str,
    recompute: bool = False,
    seed: int = 0,
) -> tuple[DualHeadModel, PromptEncoder, PreTrainedTokenizerBase]:
    """As `load_base`, of a model that went through its checks when it was a base.

    A token beyond its vocabulary is then the fault of the user whose prompt holds it.
    """
    check_hugging_face(path)
    causal_lm, tokenizer = _open_hugging_face(path, getattr(torch, model.dtype))
    stops = causal_lm.generation_config.eos_token_id
    stop_ids = stops if isinstance(stops, list) else [stops] if stops is not None else []
    end = learned_positions(causal_lm)
    encoder = encoder_for(
        tokenizer,
        marker=model.marker,
        prompt=prompt,
        stop_ids=stop_ids,
        positions=trained_positions(causal_lm.config) if end is None else end - FED_AHEAD,
    )
    if model.lora.rank:
        causal_lm = add_adapters(causal_lm, model.lora, base=str(Path(path).resolve()), seed=seed)
    dual = DualHeadModel(
        causal_lm, temperature=model.tau, recompute=recompute, end_of_positions=end
    ).to(device)
    dual.check_backbone()
    return dual, encoder, tokenizer


def _open_hugging_face(path: str, dtype: torch.dtype) -> tuple[Any, PreTrainedTokenizerBase]:
    """Model and tokenizer of a directory, which other people's programs may have written."""
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype), tokenizer
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        # Each file has its own reader with errors of its own (safetensors and tokenizers raise a
        # bare `Exception`): what they have in common is that the directory cannot be opened.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NotReadyError(
            f"{path} cannot be opened as a language model ({type(error).__name__}: {reason}); copy"
            " or download it again, or take a decoder-only model"
        ) from error


def encoder_for(
    tokenizer: PreTrainedTokenizerBase,
    *,
    marker: str,
    prompt: PromptConfig,
    stop_ids: list[int],
    positions: int | None = None,
) -> PromptEncoder:
    """Prompt encoder with the settings of a configuration or a model card."""
    return build_encoder(
        tokenizer,
        marker=marker,
        history_items=prompt.history_items,
        title_chars=prompt.title_chars,
        description_chars=prompt.description_chars,
        max_prompt_tokens=prompt.max_prompt_tokens,
        stop_ids=stop_ids,
        positions=positions,
    )


def save_model(
    path: str | Path,
    model: DualHeadModel,
    tokenizer: PreTrainedTokenizerBase,
    card: ModelCard,
    *,
    adapters: Sequence[Path] = (),
    adapters_base: str = "",
) -> ModelCard:
    """Write a model directory in one act: aside first, then renamed into place.

    The top of the directory always holds whole weights. `adapter/` holds the adapters that `model`
    has been wrapped with, or those in the folders `adapters`, joined into one on the model at
    `adapters_base`. Returns the card with its fingerprint.
    """
    target = Path(path)
    staging = target.with_name(f"{target.name}.saving-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    causal_lm: Any = model.causal_lm
    if hasattr(causal_lm, "peft_config"):
        import copy

        causal_lm.save_pretrained(staging / "adapter")
        causal_lm = copy.deepcopy(causal_lm).merge_and_unload()
    if adapters:
        join_adapters(adapters, staging / "adapter", base=adapters_base)
    causal_lm.save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    values = asdict(card) | {"fingerprint": fingerprint_of(staging, card)}
    text = json.dumps(values, indent=2, ensure_ascii=False)
    (staging / CARD).write_text(text + "\n", encoding="utf-8")
    replaced = target.with_name(f"{target.name}.replaced-{os.getpid()}")
    if target.exists():
        target.rename(replaced)
    staging.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)
    return ModelCard(**values)


def load_model(path: str, *, device: str = "cpu", dtype: str | None = None) -> LoadedModel:
    """Open a model directory written by `save_model`, in evaluation mode, on `device`.

    `dtype` is `float32` or `bfloat16`; by default the one it was saved with.
    Raises `NotReadyError` if the directory is missing or its files are damaged, `UsageError` if it
    has no `r2ec.json` (a plain language model), one of another format, or one of other weights.
    """
    card = load_card(path)
    model, encoder, tokenizer = _open_dual_head(
        path,
        model=ModelConfig(
            tau=card.tau,
            marker=card.marker,
            dtype=dtype or _saved_dtype(path),
        ),
        prompt=card.prompt_config(path),
        device=device,
    )
    _require_same_files(path, card)
    model.eval()
    return LoadedModel(path=path, card=card, model=model, encoder=encoder, tokenizer=tokenizer)


def _require_same_files(path: str, card: ModelCard) -> None:
    """Raise `UsageError` where the files are not those that the card was written with: rows that
    other weights made would be taken for rows of these."""
    found = fingerprint_of(Path(path), card)
    if found != card.fingerprint:
        raise UsageError(
            f"{path}: weights, tokenizer or prompt settings are not those that {CARD} was written"
            f" with (fingerprint {found}, not {card.fingerprint}); copy the model again, or, if"
            f" they were changed on purpose, take the line fingerprint out of {Path(path, CARD)}:"
            " it is another model then"
        )


def _saved_dtype(path: str) -> str:
    file = Path(path, "config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NotReadyError(f"{file} is damaged ({error}); copy the model again") from error
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    return dtype if dtype in ("float32", "bfloat16") else "float32"
