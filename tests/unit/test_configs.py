"""Every configuration of the repository is loaded; the defaults are the paper's settings."""

import ast
from pathlib import Path

import pytest

from r2ec import config as settings
from r2ec.cli.main import run
from r2ec.config import TrainConfig, load_init_config, load_train_config
from r2ec.errors import NotReadyError, UsageError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
SECTIONS = [
    kind
    for name, kind in vars(settings).items()
    if isinstance(kind, type) and issubclass(kind, settings.Section) and not name.startswith("_")
]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_of_the_repository_is_valid(path: Path) -> None:
    config = load_train_config(str(path))
    assert config.contrastive.steps + config.recpo.steps > 0
    assert load_init_config(str(path)).vocab_size > 0


def test_every_setting_is_read_somewhere() -> None:
    read = {
        node.attr
        for file in (ROOT / "r2ec").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    for kind in SECTIONS:
        assert set(kind.model_fields) <= read, kind.__name__


def test_options_without_effect_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["init-model", "--from", str(tmp_path), "--output", str(tmp_path / "out")]
    for option, value in (("--set", "init.num_layers=4"), ("--catalog-version", "2024-05-31")):
        assert run([*command, option, value]) == 2
        assert f"{option} has no effect with --from" in capsys.readouterr().err


def test_the_defaults_are_the_settings_of_the_paper() -> None:
    config = TrainConfig()
    recpo = config.recpo
    assert (recpo.batch_users, recpo.group_size, recpo.beta, recpo.reward_cutoff) == (
        24,
        4,
        0.05,
        1000,
    )
    assert (recpo.lr, recpo.warmup_steps, recpo.clip_low, recpo.clip_high) == (1e-5, 32, 0.2, 0.2)
    assert (recpo.sampling.temperature, recpo.sampling.top_k, recpo.sampling.max_new_tokens) == (
        1.5,
        200,
        512,
    )
    assert (config.model.tau, config.prompt.history_items, config.engine.zero_stage) == (
        0.02,
        20,
        2,
    )
    assert recpo.kl_weight == 0


def test_overrides_take_toml_values_and_bare_words(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("seed = 3\n[recpo]\nsteps = 5\n")
    config = load_train_config(
        str(file),
        [
            "recpo.steps=9",
            "recpo.advantage=rloo",
            "model.lora.rank=2",
            "model.lora.target_modules=['q_proj', 'v_proj']",
        ],
    )
    assert (config.seed, config.recpo.steps, config.recpo.advantage) == (3, 9, "rloo")
    assert config.model.lora.target_modules == ("q_proj", "v_proj")


def test_init_overrides_name_their_section(tmp_path: Path) -> None:
    assert load_init_config(None, ["init.num_layers=5"]).num_layers == 5
    with pytest.raises(UsageError, match="num_layers"):
        load_init_config(None, ["num_layers=5"])


def test_broken_toml_and_missing_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("seed = = 3")
    with pytest.raises(UsageError, match=r"a\.toml is not valid TOML"):
        load_train_config(str(file))
    with pytest.raises(NotReadyError, match=r"b\.toml does not exist"):
        load_train_config(str(tmp_path / "b.toml"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("recpo.support='top_k'\nrecpo.sampling.top_k=0", "needs recpo.sampling.top_k"),
        ("contrastive.patience=3", "no effect"),
        ("recpo.max_seconds=60", r"recpo\.max_seconds has no effect"),
        ("engine.zero_stage=4", "zero_stage"),
        ("contrastive.lm_weight=0.5", r"contrastive\.lm_weight has no effect"),
        ("contrastive.rationale_share=0.5", r"contrastive\.rationale_share has no effect"),
        ("recpo.steps=1\nrecpo.sampling.max_new_tokens=0", "nothing trains"),
        ("recpo.steps=1\nrecpo.sampling.temperature=0", "one reasoning G times"),
        ("recpo.steps=1\nrecpo.token_weight=0\nrecpo.item_weight=0", "nothing trains"),
        ("recpo.steps=1\nrecpo.batch_users=1", "no others to compete with"),
        (
            "recpo.steps=1\nrecpo.item_weight=0\nrecpo.item_softmax='catalog'",
            r"recpo\.item_softmax = 'catalog' has no effect",
        ),
        ("recpo.group_size=1", r"recpo\.group_size"),
        ("model.lora.alpha=64", r"model\.lora\.alpha has no effect"),
        ("model.lora.target_modules=['q_proj']", r"model\.lora\.target_modules has no effect"),
        ("evaluation.ks=[5]", "evaluation.ks"),
        ("evaluation.bootstrap_samples=500", "evaluation.bootstrap_samples"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path: Path, override: str, words: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text("")
    with pytest.raises(UsageError, match=words) as refused:
        load_train_config(str(file), override.split("\n"))
    assert len(str(refused.value)) < 300, "not the whole configuration"


def test_a_batch_of_one_user_ranks_its_target_in_the_catalog(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[recpo]\nsteps = 1\nbatch_users = 1\nitem_softmax = 'catalog'\n")
    assert load_train_config(str(file)).recpo.batch_users == 1
