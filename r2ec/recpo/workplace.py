"""What a stage works with: data, model under DeepSpeed, item table, journal."""

import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2ec.catalog import Catalog, load_catalog
from r2ec.config import ContrastiveConfig, RecpoConfig, TrainConfig
from r2ec.errors import NotReadyError
from r2ec.model.card import ModelCard
from r2ec.model.checkpoint import load_base
from r2ec.model.context import check_context
from r2ec.model.dual_head import DualHeadModel
from r2ec.recpo.engine import Engine, World
from r2ec.recpo.items import ItemTable
from r2ec.recpo.journal import Journal
from r2ec.recpo.loss import log_shares
from r2ec.recpo.stage import StagePlan, run_stage
from r2ec.recpo.update import (
    frozen_copy,
)
from r2ec.recpo.validation import validation_ranks
from r2ec.storage import Warehouse
from r2ec.tables import Example, check_targets, load_examples
from r2ec.text.prompts import TEMPLATE_VERSION
from r2ec.text.tokens import PromptEncoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What a run reads from the warehouse."""

    catalog: Catalog
    train: list[Example]
    valid: list[Example]


@dataclass(slots=True)
class Workplace:
    """One stage's model and what stands around it."""

    config: TrainConfig
    world: World
    data: Data
    journal: Journal
    run_dir: Path
    engine: Engine
    table: ItemTable
    encoder: PromptEncoder
    tokenizer: Any
    reference: DualHeadModel | None

    @property
    def pad_id(self) -> int:
        """Any token: padding is masked."""
        return next(iter(self.encoder.stop_ids))


def load_data(config: TrainConfig) -> Data:
    """Catalog, training examples, and a fixed draw of the valid split.

    Raises `NotReadyError` where one of the splits has no sequence.
    """
    warehouse = Warehouse(config.paths.warehouse)
    catalog = load_catalog(warehouse)
    train = load_examples(warehouse, "train")
    valid = load_examples(warehouse, "valid")
    if not train or not valid:
        raise NotReadyError(
            f"{config.paths.warehouse}: {len(train)} train and {len(valid)} valid sequences; both"
            " are needed. Use more events, or other split bounds in jobs/build_sequences.py"
        )
    check_targets([*train, *valid], catalog)
    if len(valid) > config.evaluation.max_valid_users:
        valid = random.Random(0).sample(valid, config.evaluation.max_valid_users)
    return Data(catalog=catalog, train=train, valid=valid)


def open_workplace(
    config: TrainConfig,
    world: World,
    data: Data,
    journal: Journal,
    run_dir: Path,
    source: str,
    *,
    stage: str,
    weight_decay: float,
    with_reference: bool,
) -> Workplace:
    """Load the weights that the stage so named starts from and put DeepSpeed around them."""
    model, encoder, tokenizer = load_base(
        source,
        model=config.model,
        prompt=config.prompt,
        device=world.device,
        recompute=config.engine.gradient_checkpointing,
        seed=zlib.crc32(f"{config.seed}/{stage}".encode()),
    )
    world.on_first(lambda: check_context(encoder, *config.longest_reasoning))
    rows = [encoder.item_ids(item) for item in data.catalog.items]
    shares_I = log_shares([example.target_index for example in data.train], len(rows))
    correction = config.in_batch.popularity_correction * shares_I
    reference = frozen_copy(model) if with_reference else None
    engine = Engine(
        world,
        model,
        zero_stage=config.engine.zero_stage,
        gradient_clipping=config.engine.gradient_clipping,
        weight_decay=weight_decay,
    )
    return Workplace(
        config=config,
        world=world,
        data=data,
        journal=journal,
        run_dir=run_dir,
        engine=engine,
        table=ItemTable(world, rows, next(iter(encoder.stop_ids)), correction),
        encoder=encoder,
        tokenizer=tokenizer,
        reference=reference,
    )


def run_plan(
    place: Workplace,
    name: str,
    settings: ContrastiveConfig | RecpoConfig,
    run_step: Any,
    *,
    reasoning_budget: int,
    resume: bool,
    stopping: Callable[[], bool],
) -> dict[str, float]:
    """Run one stage at this workplace; see `run_stage`. The budget is that of its evaluations.

    Its engine is closed at the end: the next stage needs the memory.
    """
    config, data = place.config, place.data
    plan = StagePlan(
        name=name,
        steps=settings.steps,
        eval_every=settings.eval_every,
        patience=settings.patience,
        max_seconds=settings.max_seconds,
        max_cpu_seconds=settings.max_cpu_seconds,
        checkpoint_every=config.checkpoint.every_steps,
        keep=config.checkpoint.keep,
        run_step=run_step,
        evaluate=lambda: validation_ranks(
            place.engine,
            place.table,
            place.encoder,
            data.catalog,
            data.valid,
            reasoning_budget=reasoning_budget,
            batch_rows=config.evaluation.batch_rows,
        ),
        card=lambda metrics: build_card(config, data, metrics),
    )
    figures = run_stage(
        plan,
        place.engine,
        place.table,
        place.tokenizer,
        place.journal,
        place.run_dir,
        resume=resume,
        stopping=stopping,
    )
    place.engine.close()
    return figures


def build_card(config: TrainConfig, data: Data, metrics: dict[str, float]) -> ModelCard:
    """The card of a model trained with this configuration on this catalog."""
    return ModelCard(
        tau=config.model.tau,
        marker=config.model.marker,
        prompt=json.loads(config.prompt.model_dump_json()),
        template_version=TEMPLATE_VERSION,
        catalog_version=data.catalog.version,
        catalog_fingerprint=data.catalog.fingerprint(),
        catalog_items=data.catalog.num_items,
        training=json.loads(config.model_dump_json()),
        metrics=metrics,
    )
