"""Every option of the RecPO stage has an effect on what is trained; equal groups are skipped."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from r2ec.config import TrainConfig
from r2ec.errors import R2ecError
from r2ec.recpo.engine import Engine, World
from r2ec.recpo.items import ItemTable
from r2ec.recpo.journal import Journal
from r2ec.recpo.loss import log_shares
from r2ec.recpo.step import recpo_step
from r2ec.recpo.update import frozen_copy
from r2ec.recpo.workplace import Data, Workplace
from tests.factories.models import examples_of, small_catalog, talking_model

CATALOG = small_catalog()
STEPS = 3
# Large steps, so that ratios leave their bounds within an update of the same rollouts.
USUAL: dict[str, Any] = {
    "steps": STEPS,
    "batch_users": 3,
    "group_size": 3,
    "micro_batch_rows": 4,
    "lr": 3e-3,
    "warmup_steps": 0,
    "updates_per_rollout": 2,
    "refresh_every": 1,
    "clip_low": 0.1,
    "clip_high": 0.1,
}
SAMPLING: dict[str, Any] = {"temperature": 1.2, "top_k": 20, "max_new_tokens": 6}


def train(
    world: World, folder: Path, steps: int = STEPS, **changes: Any
) -> tuple[dict[str, Tensor], list[dict[str, float | None]]]:
    """Weights and figures after some steps of the whole RecPO step."""
    sampling = SAMPLING | changes.pop("sampling", {})
    sections = {name: changes.pop(name) for name in ("in_batch", "engine") if name in changes}
    config = TrainConfig.model_validate(
        {"recpo": USUAL | {"sampling": sampling} | changes, **sections}
    )
    model, encoder = talking_model()
    reference = frozen_copy(model) if config.recpo.kl_weight else None
    engine = Engine(
        world,
        model,
        zero_stage=0,
        gradient_clipping=config.engine.gradient_clipping,
        weight_decay=config.recpo.weight_decay,
    )
    examples = examples_of(CATALOG, 9)
    rows = [encoder.item_ids(item) for item in CATALOG.items]
    bought = [e.target_index for e in examples for _ in range(1 + e.sequence_id)]
    shares_I = log_shares(bought, len(rows))
    correction_I = config.in_batch.popularity_correction * shares_I
    place = Workplace(
        config=config,
        world=world,
        data=Data(catalog=CATALOG, train=examples, valid=examples),
        journal=Journal(folder, active=False),
        run_dir=folder,
        engine=engine,
        table=ItemTable(world, rows, next(iter(encoder.stop_ids)), correction_I),
        encoder=encoder,
        tokenizer=encoder.tokenizer,
        reference=reference,
    )
    figures = [recpo_step(place, step) for step in range(steps)]
    return {name: value.detach().clone() for name, value in model.named_parameters()}, figures


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.fixture(scope="module")
def usual(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    weights, _ = train(world, tmp_path_factory.mktemp("usual"))
    return weights


def test_the_same_settings_give_the_same_weights(
    world: World, usual: dict[str, Tensor], tmp_path: Path
) -> None:
    again, _ = train(world, tmp_path)
    assert largest_difference(usual, again) == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"advantage": "rloo"},
        {"beta": 0.9},
        {"reward_cutoff": 2},
        {"clip_low": 0.4},
        {"clip_high": 0.4},
        {"support": "top_k"},
        {"token_norm": "length"},
        {"token_norm": "batch"},
        {"token_weight": 0.3},
        {"item_weight": 5.0},
        {"item_softmax": "catalog"},
        {"kl_weight": 0.5},
        {"refresh_every": 3},
        {"updates_per_rollout": 1},
        {"group_size": 4},
        {"batch_users": 2},
        {"lr": 1e-3},
        {"warmup_steps": 3},
        {"weight_decay": 0.5},
        {"in_batch": {"popularity_correction": 0.0}},
        {"engine": {"gradient_clipping": 1e-6}},
        {"sampling": {"temperature": 0.8}},
        {"sampling": {"top_k": 5}},
        {"sampling": {"top_p": 0.5}},
        {"sampling": {"max_new_tokens": 3}},
    ],
    ids=str,
)
def test_every_option_changes_what_is_trained(
    world: World, usual: dict[str, Tensor], tmp_path: Path, change: dict[str, Any]
) -> None:
    changed, _ = train(world, tmp_path, **change)
    assert largest_difference(usual, changed) > 1e-5


def test_a_second_update_of_the_same_rollouts_uses_the_true_ratio(
    world: World, tmp_path: Path
) -> None:
    _, once = train(world, tmp_path, steps=1, updates_per_rollout=1)
    _, twice = train(world, tmp_path, steps=1, updates_per_rollout=2)
    assert once[0]["ratio_max"] == pytest.approx(1.0, abs=1e-3)
    assert once[0]["clip_fraction"] == 0.0
    assert (twice[0]["ratio_max"] or 0) > 1.05
    assert (twice[0]["clip_fraction"] or 0) > 0.0


def test_groups_of_equal_rewards_are_counted_and_never_put_through_the_policy(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    from r2ec.recpo import update

    whole_pass = update.policy_pass

    def counting(model: Any, completions: Any, **settings: Any) -> Any:
        seen.append(len(completions))
        return whole_pass(model, completions, **settings)

    monkeypatch.setattr(update, "policy_pass", counting)
    # No rank reaches a cut-off of 1 in these batches: all rewards are 0.
    _, figures = train(world, tmp_path, steps=1, beta=0.0, reward_cutoff=1, updates_per_rollout=1)
    share = figures[0]["zero_variance_share"]
    assert share is not None
    assert share > 0
    assert sum(seen) == round((1 - share) * 9)


def test_the_kl_term_holds_the_policy_near_the_reference(world: World, tmp_path: Path) -> None:
    _, free = train(world, tmp_path, steps=3, kl_weight=1e-6)
    _, held = train(world, tmp_path, steps=3, kl_weight=100.0)
    assert (free[-1]["kl"] or 0) > 2 * (held[-1]["kl"] or 0)


def test_weights_that_a_step_has_spoilt_end_the_run_with_advice(
    world: World, tmp_path: Path
) -> None:
    """The loss and the gradient of that step were finite."""
    with pytest.raises(R2ecError, match=r"spoilt the weights.*learning rate.*--resume"):
        train(world, tmp_path, steps=2, lr=1e30, updates_per_rollout=1)
