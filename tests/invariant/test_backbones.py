"""Every family of backbones: sampled from, trained by one step of RecPO, saved and opened again."""

from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from r2ec.config import LoraConfig, ModelConfig, TrainConfig
from r2ec.model.card import ModelCard
from r2ec.model.checkpoint import load_base, load_model, save_model
from r2ec.model.dual_head import DualHeadModel
from r2ec.recpo.engine import Engine, World
from r2ec.recpo.items import ItemTable
from r2ec.recpo.journal import Journal
from r2ec.recpo.step import recpo_step
from r2ec.recpo.workplace import Data, Workplace
from r2ec.retrieval.embed import embed_items
from r2ec.retrieval.rank import top_k
from r2ec.sampler import SamplingSettings, sample
from r2ec.text.prompts import TEMPLATE_VERSION
from r2ec.text.tokens import PromptEncoder
from tests.factories.models import (
    FAMILIES,
    MARKER,
    PROMPT,
    TAU,
    examples_of,
    small_catalog,
    small_model,
)

CATALOG = small_catalog()
EXAMPLES = examples_of(CATALOG, 6)
LORA = LoraConfig(rank=2, alpha=8)


def base_directory(family: str, folder: Path) -> Path:
    """A plain Hugging Face directory; sliding layers see fewer tokens than a prompt has."""
    model, encoder = small_model(family, initializer_range=0.1)
    if family == "gemma2":
        model.causal_lm.config.sliding_window = 32
    model.causal_lm.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    return folder


def train_one_step(
    world: World, folder: Path, base: Path, *, lora: bool, recompute: bool
) -> tuple[DualHeadModel, PromptEncoder]:
    config = TrainConfig.model_validate(
        {
            "recpo": {
                "steps": 1,
                "batch_users": 3,
                "group_size": 2,
                "micro_batch_rows": 4,
                "lr": 1e-3,
                "warmup_steps": 0,
                "sampling": {"temperature": 1.2, "max_new_tokens": 6},
            }
        }
    )
    model, encoder, tokenizer = load_base(
        str(base),
        model=ModelConfig(tau=TAU, dtype="float32", lora=LORA if lora else LoraConfig()),
        prompt=PROMPT,
        recompute=recompute,
    )
    rows = [encoder.item_ids(item) for item in CATALOG.items]
    place = Workplace(
        config=config,
        world=world,
        data=Data(catalog=CATALOG, train=EXAMPLES, valid=EXAMPLES),
        journal=Journal(folder, active=False),
        run_dir=folder,
        engine=Engine(world, model, zero_stage=0, gradient_clipping=1.0, weight_decay=0.0),
        table=ItemTable(world, rows, next(iter(encoder.stop_ids))),
        encoder=encoder,
        tokenizer=tokenizer,
        reference=None,
    )
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    figures = recpo_step(place, 0)
    assert (figures["grad_norm"] or 0) > 0
    moved = {n for n, p in model.named_parameters() if not torch.equal(before[n], p.detach())}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert moved, "the step moved weights"
    assert moved <= trained
    assert all("lora" in name for name in trained) == lora
    return model, encoder


def ranking(model: DualHeadModel, encoder: PromptEncoder) -> tuple[list[list[int]], torch.Tensor]:
    """Sampled ids and the scores of the ten best items of every user."""
    settings = SamplingSettings(temperature=0.9, top_k=20, top_p=1.0, max_new_tokens=6, seed=2)
    prompts = [encoder.user_ids(example.history, CATALOG) for example in EXAMPLES]
    keys = [example.history.user_id for example in EXAMPLES]
    groups = sample(model, encoder, prompts, keys, settings)
    rows = [encoder.item_ids(item) for item in CATALOG.items]
    table_IH = embed_items(model, rows, pad_id=next(iter(encoder.stop_ids)))
    states_BH = torch.stack([group[0].state_H for group in groups])
    scores_BK, _ = top_k(states_BH, table_IH, 10, temperature=TAU)
    return [group[0].ids for group in groups], scores_BK


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_model_is_saved_and_opened_with_the_same_scores(
    world: World, tmp_path: Path, family: str, lora: bool
) -> None:
    base = base_directory(family, tmp_path / "base")
    model, encoder = train_one_step(world, tmp_path, base, lora=lora, recompute=lora)
    expected_ids, expected_scores = ranking(model, encoder)
    card = ModelCard(
        tau=TAU,
        marker=MARKER,
        prompt=PROMPT.model_dump(),
        template_version=TEMPLATE_VERSION,
        catalog_version=CATALOG.version,
        catalog_fingerprint=CATALOG.fingerprint(),
        catalog_items=CATALOG.num_items,
    )
    save_model(tmp_path / "model", model, encoder.tokenizer, card)
    loaded = load_model(str(tmp_path / "model"))
    found_ids, found_scores = ranking(loaded.model, loaded.encoder)
    assert found_ids == expected_ids
    assert (found_scores - expected_scores).abs().max() < 1e-3, "scores reach 10 at this tau"
    # transformers and peft alone open what was saved.
    ids = torch.arange(3, 40).unsqueeze(0)
    with torch.no_grad():
        expected = model.causal_lm(input_ids=ids).logits
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
        assert (plain(input_ids=ids).logits - expected).abs().max() < 1e-3
        if lora:
            start = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            adapted = peft.PeftModel.from_pretrained(start, tmp_path / "model" / "adapter")
            assert (adapted(input_ids=ids).logits - expected).abs().max() < 1e-3
