"""Tiny shops and models: random weights of each family, a tokenizer trained on the spot."""

import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from r2ec.catalog import Catalog, CatalogItem
from r2ec.config import InitConfig, PromptConfig
from r2ec.model.card import ModelCard
from r2ec.model.checkpoint import encoder_for, save_model
from r2ec.model.dual_head import DualHeadModel
from r2ec.model.scratch import (
    build_scratch_model,
    language_loss,
    tokenizer_texts,
    train_tokenizer,
)
from r2ec.tables import Example, History
from r2ec.text.prompts import DAY, TEMPLATE_VERSION, PromptTemplate
from r2ec.text.tokens import PromptEncoder

FAMILIES = ("qwen2", "qwen3", "gemma2", "llama")
MARKER = "<answer>"
PROMPT = PromptConfig(history_items=6, title_chars=60, description_chars=40, max_prompt_tokens=300)
TAU = 0.1
_WORDS = ("red", "blue", "green", "printer", "ink", "paper", "guitar", "string", "camera", "lens")


def small_catalog(num_items: int = 30, seed: int = 0) -> Catalog:
    """Items with titles of shop words; every third without store, price or category."""
    source = random.Random(seed)
    return Catalog.of(
        "2024-05-31",
        (
            CatalogItem(
                item_index=index,
                item_id=f"B{index:04d}",
                title=" ".join(source.choices(_WORDS, k=4)),
                description=" ".join(source.choices(_WORDS, k=8)),
                category="Goods > " + source.choice(_WORDS) if index % 3 else "",
                store=source.choice(("Halmont", "Koravex")) if index % 3 else "",
                price=9.5 if index % 3 else None,
                text_hash=f"hash-{index}",
            )
            for index in range(num_items)
        ),
    )


def examples_of(catalog: Catalog, num_users: int, seed: int = 1) -> list[Example]:
    """One example a user, with histories of 1 to 5 items."""
    source = random.Random(seed)
    examples = []
    for user in range(num_users):
        length = source.randint(1, 5)
        times = sorted(source.randrange(1, 400) * DAY for _ in range(length))
        history = History(
            user_id=f"u{user:03d}",
            item_index=tuple(source.randrange(catalog.num_items) for _ in range(length)),
            rating=tuple(source.choice((None, 3.0, 5.0)) for _ in range(length)),
            time=tuple(times),
            now=times[-1] + 3 * DAY,
            history_hash=f"history-{user}",
        )
        target = source.randrange(catalog.num_items)
        examples.append(Example(sequence_id=user, history=history, target_index=target))
    return examples


@lru_cache(maxsize=4)
def tokenizer_of(catalog: Catalog | None = None) -> Any:
    """A byte-level BPE over the small catalog."""
    template = PromptTemplate(
        marker=MARKER,
        forbidden=(MARKER,),
        history_items=PROMPT.history_items,
        title_chars=PROMPT.title_chars,
        description_chars=PROMPT.description_chars,
    )
    return train_tokenizer(tokenizer_texts(catalog or small_catalog(), template), 420)


def small_model(
    family: str = "qwen2", seed: int = 0, **shape: Any
) -> tuple[DualHeadModel, PromptEncoder]:
    """Random weights, large enough that reasonings differ and sometimes end by themselves."""
    tokenizer = tokenizer_of()
    settings = {"hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.3} | shape
    config = InitConfig(family=family, vocab_size=420, seed=seed, **settings)
    model = DualHeadModel(build_scratch_model(config, tokenizer), temperature=TAU).eval()
    return model, encoder_for(tokenizer, marker=MARKER, prompt=PROMPT, stop_ids=[])


def save_small_model(
    path: Path, catalog: Catalog, *, family: str = "qwen2", seed: int = 0, **shape: Any
) -> ModelCard:
    """A complete model directory with random weights that knows `catalog`."""
    model, encoder = small_model(family, seed, **shape)
    card = ModelCard(
        tau=TAU,
        marker=MARKER,
        prompt=PROMPT.model_dump(),
        template_version=TEMPLATE_VERSION,
        catalog_version=catalog.version,
        catalog_fingerprint=catalog.fingerprint(),
        catalog_items=catalog.num_items,
        training={"evaluation": {"reasoning_budget": 8}},
    )
    return save_model(path, model, encoder.tokenizer, card)


@lru_cache(maxsize=1)
def _taught_weights() -> dict[str, torch.Tensor]:
    model, encoder = small_model(initializer_range=0.05)
    catalog, source = small_catalog(), random.Random(0)
    prompts = [encoder.user_ids(e.history, catalog)[-60:] for e in examples_of(catalog, 16, seed=9)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        rows = []
        for prompt in prompts:
            words = " ".join(source.choices(_WORDS, k=source.randint(1, 3)))
            text = encoder.tokenizer(words, add_special_tokens=False)["input_ids"]
            end = [encoder.tokenizer.eos_token_id] if source.random() < 0.3 else []
            rows.append(prompt + text + (end or list(encoder.marker_ids)))
        optimizer.zero_grad()
        language_loss(model, rows, 0).backward()
        optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


def talking_model() -> tuple[DualHeadModel, PromptEncoder]:
    """A model that was taught to write a few words and then the marker, or the end of its turn."""
    model, encoder = small_model(initializer_range=0.05)
    model.load_state_dict(_taught_weights())
    return model.eval(), encoder
