"""`r2ec.json`, the card of a model directory: what makes a language model this recommender.

tau, marker, prompt template, the catalog it was trained on, the training configuration and metrics.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from r2ec.catalog import Catalog
from r2ec.config import PromptConfig
from r2ec.errors import NotReadyError, UsageError
from r2ec.text.prompts import TEMPLATE_VERSION

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
