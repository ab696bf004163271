"""One contrastive step and one RecPO step under each ZeRO stage, run by any number of processes.

Started by a launcher: `-m tests.factories.ranks FOLDER`; the first rank writes what came of them.
"""

import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import nn

from r2ec.config import TrainConfig
from r2ec.recpo import rollout
from r2ec.recpo.contrastive import build_user_row, contrastive_step
from r2ec.recpo.engine import Engine, World
from r2ec.recpo.items import ItemTable
from r2ec.recpo.journal import Journal
from r2ec.recpo.step import recpo_step
from r2ec.recpo.workplace import Data, Workplace
from tests.factories.models import TAU, examples_of, small_catalog, small_model

STAGES = (0, 1, 2, 3)
# Five users divide by neither 2 nor 4 ranks; one user leaves ranks without rows.
USERS = (5, 1)
LR = 1e-3
CONFIG: dict[str, Any] = {
    "paths": {"warehouse": "-", "base_model": "-", "output": "-"},
    "model": {"tau": TAU, "dtype": "float32"},
    "contrastive": {"steps": 1},
    "recpo": {
        "steps": 1,
        "batch_users": max(USERS),
        "group_size": 3,
        "micro_batch_rows": 3,
        "lr": LR,
        "warmup_steps": 0,
        "item_weight": 1.0,
        "sampling": {"temperature": 1.2, "max_new_tokens": 6},
    },
}


def workplace(world: World, zero_stage: int, num_users: int, folder: Path) -> Workplace:
    """A new model under this ZeRO stage, every weight of it partitioned under ZeRO 3.

    With one user the logits have weights of their own: a rank without rows must reduce them too.
    """
    catalog = small_catalog()
    model, encoder = small_model(seed=3)
    if num_users == 1:
        head: Any = model.causal_lm.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach().clone() + 0.01)
    engine = Engine(
        world,
        model,
        zero_stage=zero_stage,
        gradient_clipping=1e9,
        weight_decay=0.0,
        whole_up_to=0,
    )
    rows = [encoder.item_ids(item) for item in catalog.items]
    return Workplace(
        config=TrainConfig.model_validate(CONFIG),
        world=world,
        data=Data(catalog=catalog, train=examples_of(catalog, num_users), valid=[]),
        journal=Journal(folder, active=world.is_first),
        run_dir=folder,
        engine=engine,
        table=ItemTable(world, rows, next(iter(encoder.stop_ids))),
        encoder=encoder,
        tokenizer=encoder.tokenizer,
        reference=None,
    )


def contrastive(place: Workplace) -> dict[str, float | None]:
    """One contrastive step in micro-batches of two users."""
    rows = [
        build_user_row(
            place.encoder,
            place.data.catalog,
            example,
            seed=(0, 0),
            reasoning_share=0.5,
            rationale_share=0.5,
            history_dropout=0.2,
        )
        for example in place.world.share(place.data.train)
    ]
    figures, norm = contrastive_step(
        place.engine,
        rows,
        [example.target_index for example in place.data.train],
        place.table,
        language_tokens=sum(place.world.gather(sum(row.language_tokens for row in rows))),
        lm_weight=0.5,
        micro_batch=2,
        lr=LR,
        pad_id=place.pad_id,
    )
    return {
        "item_loss": figures.item_loss,
        "language_loss": figures.language_loss,
        "in_batch_hits": figures.in_batch_hits,
        "grad_norm": norm,
    }


def gradients(engine: Engine, zero_stage: int) -> dict[str, torch.Tensor]:
    """The gradient of the first step, by name: ten times Adam's first average of it."""
    found = {}
    for name, parameter in engine.model.named_parameters():
        if zero_stage == 0:
            average = engine._optimizer.state[parameter]["exp_avg"]
        else:
            average = deepspeed.utils.safe_get_full_optimizer_state(parameter, "exp_avg")
        found[name] = 10 * average.detach().clone().view(engine_shape(parameter))
    return found


def engine_shape(parameter: Any) -> torch.Size:
    """Shape of a whole parameter, also where only a part of it is here."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def weights(engine: Engine) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    with engine.whole_weights():
        return {n: p.detach().clone() for n, p in engine.model.named_parameters()}


def resumed(place: Workplace, zero_stage: int, num_users: int, folder: Path) -> bool:
    """Whether a checkpoint gives another engine the weights of this one and its next step."""
    path = folder / f"{zero_stage}-{num_users}" / "step-1"
    place.engine.save(path, {}, {}, keep=1)
    other = workplace(place.world, zero_stage, num_users, folder)
    other.engine.load(path)
    for one in (place, other):
        contrastive(one)
    mine, theirs = weights(place.engine), weights(other.engine)
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def main(folder: Path) -> None:
    """Everything, into `folder/ranks.pt`."""
    torch.set_num_threads(1)
    rollout._CHUNK_ELEMENTS = 420 * 4  # so that ranks differ in their chunks of logits
    world = World(120)
    told: dict[tuple[str, int, int], dict[str, Any]] = {}
    for stage in STAGES:
        for num_users in USERS:
            for name in ("contrastive", "recpo"):
                place = workplace(world, stage, num_users, folder)
                figures = contrastive(place) if name == "contrastive" else recpo_step(place, 0)
                gathers = place.engine.num_gathers
                after = weights(place.engine)
                told[name, stage, num_users] = {
                    "figures": figures,
                    "gathers": gathers,
                    "gradients": gradients(place.engine, stage),
                    "weights": after,
                    "ranks_agree": len(set(world.gather(digest(after)))) == 1,
                    "resumed": stage < 3 or resumed(place, stage, num_users, folder),
                }
                place.journal.close()
    if world.is_first:
        torch.save(told, folder / "ranks.pt")
    world.close()


def digest(values: dict[str, torch.Tensor]) -> float:
    """A number that two equal models share."""
    return float(sum(value.double().sum().item() for value in values.values()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
