"""Model directories: what `save_pretrained` writes, the adapters, and `r2ec.json`.

`transformers` alone opens a saved directory; `r2ec.json` adds what makes it a recommender: tau,
marker, prompt template, the catalog it was trained on, the training configuration and metrics.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from r2ec.catalog import Catalog
from r2ec.config import LoraConfig, ModelConfig, PromptConfig
from r2ec.errors import NotReadyError, UsageError
from r2ec.model.adapters import join_adapters
from r2ec.model.dual_head import DualHeadModel
from r2ec.model.limits import (
    FED_AHEAD,
    check_vocabulary,
    learned_positions,
    trained_positions,
)
from r2ec.text.prompts import TEMPLATE_VERSION
from r2ec.text.tokens import PromptEncoder, build_encoder

CARD = "r2ec.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """Contents of `r2ec.json`. `fingerprint` identifies weights, tokenizer and prompts."""

    tau: float
    marker: str
    prompt: dict[str, Any]
    template_version: str
    catalog_version: str
    catalog_fingerprint: str
    catalog_items: int
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    format: int = FORMAT

    @property
    def reasoning_budget(self) -> int:
        """Most tokens of a reasoning, as the training evaluated it; 64 where it does not say."""
        return int(self.training.get("evaluation", {}).get("reasoning_budget", 64))

    def prompt_config(self, path: str) -> PromptConfig:
        """`prompt` as a configuration; `UsageError` naming the card in `path` if it is none."""
        try:
            return PromptConfig(**self.prompt)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{Path(path, CARD)}: prompt {self.prompt!r} is damaged; train or copy the model"
                " again"
            ) from error


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


def load_card(path: str) -> ModelCard:
    """Read and check `r2ec.json` of a model directory. Raises `UsageError` as `load_model`.

    A card without a fingerprint gets that of the files.
    """
    check_hugging_face(path)
    folder = Path(path)
    file = folder / CARD
    if not file.is_file():
        raise UsageError(
            f"{path} has no {CARD}: it is a plain language model, not one that r2ec-cli train"
            f" wrote; train it first: r2ec-cli train --config … --base-model {path}"
        )
    try:
        card = ModelCard(**json.loads(file.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError) as error:
        raise UsageError(f"{file} is damaged ({error}); train or copy the model again") from error
    if card.format != FORMAT or card.template_version != TEMPLATE_VERSION:
        raise UsageError(
            f"{file}: format {card.format}, prompt template {card.template_version}; this program"
            f" reads format {FORMAT}, template {TEMPLATE_VERSION}. Train again, or use the release"
            " that wrote it"
        )
    return card if card.fingerprint else replace(card, fingerprint=fingerprint_of(folder, card))


def check_catalog(card: ModelCard, catalog: Catalog, path: str) -> None:
    """Raise `UsageError` unless `catalog` is the one the model was trained on, or a later version.

    A later version appends items, so the ids of the model's items must stand first, in order.
    """
    if catalog.num_items < card.catalog_items:
        raise UsageError(
            f"catalog version {catalog.version} holds {catalog.num_items:,} items, but model {path}"
            f" was trained on version {card.catalog_version} with {card.catalog_items:,}: an older"
            " catalog cannot be scored; use a later version or an older model"
        )
    if catalog.fingerprint(card.catalog_items) != card.catalog_fingerprint:
        raise UsageError(
            f"model {path} does not know catalog version {catalog.version}: its first"
            f" {card.catalog_items:,} items are not those of version {card.catalog_version} that"
            " the model was trained on; train on this catalog, or give the right --warehouse"
        )


def check_hugging_face(path: str) -> None:
    """Raise `NotReadyError` unless `path` looks like a Hugging Face model directory."""
    folder = Path(path)
    if not folder.is_dir():
        raise NotReadyError(
            f"model directory {path} does not exist; make one with r2ec-cli init-model or train"
        )
    missing = [
        name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()
    ]
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        missing.append("*.safetensors")
    if missing:
        raise NotReadyError(
            f"{path} is not a complete model directory: {', '.join(missing)} missing"
        )


def fingerprint_of(folder: Path, card: ModelCard) -> str:
    """12 hex digits over the weights, the tokenizer and everything that shapes a prompt, or ends a
    reasoning."""
    digest = hashlib.sha256()
    patterns = ("*.safetensors", "tokenizer*.json", "chat_template*", "config.json")
    for name in sorted(file for pattern in patterns for file in folder.glob(pattern)):
        digest.update(name.name.encode())
        with name.open("rb") as stream:
            while chunk := stream.read(1 << 24):
                digest.update(chunk)
    shaping: list[object] = [card.tau, card.marker, card.prompt, card.template_version]
    if (ends := _end_tokens(folder)) is not None:
        shaping.append(ends)
    digest.update(json.dumps(shaping, sort_keys=True).encode())
    return digest.hexdigest()[:12]


def _end_tokens(folder: Path) -> object:
    """The end tokens that `generation_config.json` adds; its other settings are not ours."""
    try:
        return json.loads((folder / "generation_config.json").read_text("utf-8"))["eos_token_id"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _saved_dtype(path: str) -> str:
    file = Path(path, "config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NotReadyError(f"{file} is damaged ({error}); copy the model again") from error
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    return dtype if dtype in ("float32", "bfloat16") else "float32"
