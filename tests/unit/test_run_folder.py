"""What a run folder remembers, and what a resume may change."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r2ec.config import TrainConfig
from r2ec.errors import UsageError
from r2ec.model.memory import TRAINING_ADVICE
from r2ec.recpo.finite import check_norm
from r2ec.recpo.run_folder import RESUMABLE, check_data, prepare_run_dir, read_json
from r2ec.recpo.workplace import Data
from tests.factories.models import examples_of, small_catalog


def configured(folder: Path, **sections: Any) -> TrainConfig:
    return TrainConfig.model_validate({"paths": {"output": str(folder / "model")}, **sections})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The folder of a run with all defaults."""
    config = configured(tmp_path)
    prepare_run_dir(config, config.paths.resolved_run_dir, resume=False, fresh=False)
    return config.paths.resolved_run_dir


def test_a_resume_may_lower_what_is_done_at_once_and_the_learning_rate(
    tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(tmp_path, recpo={"micro_batch_rows": 4, "lr": 1e-6})
    prepare_run_dir(config, run_dir, resume=True, fresh=False)
    assert "goes on with recpo.micro_batch_rows = 4, was 16" in caplog.text
    assert read_json(run_dir / "config.json")["recpo"]["lr"] == 1e-6
    caplog.clear()
    prepare_run_dir(config, run_dir, resume=True, fresh=False)
    assert caplog.text == ""


def test_what_decides_the_weights_stays_as_it_was(tmp_path: Path, run_dir: Path) -> None:
    for change in ({"recpo": {"beta": 0.5, "lr": 1e-6}}, {"engine": {"zero_stage": 3}}):
        with pytest.raises(UsageError, match=r"(beta was 0.05, now 0.5|zero_stage was 2, now 3)"):
            prepare_run_dir(configured(tmp_path, **change), run_dir, resume=True, fresh=False)
    assert read_json(run_dir / "config.json")["recpo"]["lr"] == 1e-5, "nothing was kept of it"


def test_a_stage_that_is_over_takes_no_other_settings(tmp_path: Path, run_dir: Path) -> None:
    (run_dir / "finished.json").write_text('{"contrastive": {}}')
    prepare_run_dir(configured(tmp_path, recpo={"lr": 1e-6}), run_dir, resume=True, fresh=False)
    other = configured(tmp_path, recpo={"lr": 1e-6}, contrastive={"lr": 1e-4})
    with pytest.raises(UsageError, match=r"contrastive\.lr was 0\.001, now 0\.0001"):
        prepare_run_dir(other, run_dir, resume=True, fresh=False)


def test_the_advice_names_only_what_a_resume_takes() -> None:
    """Advice that ends in another error is none."""
    now, _, anew = TRAINING_ADVICE.partition("--resume")
    named = {word.strip(",.") for word in now.split() if "." in word.strip(",.")}
    assert named
    assert named <= RESUMABLE
    assert "--fresh" in anew
    with pytest.raises(Exception, match="--resume") as error:
        check_norm(float("nan"))
    assert "engine.gradient_clipping" in str(error.value)
    assert {"engine.gradient_clipping", "recpo.lr", "contrastive.lr"} <= RESUMABLE


def test_every_setting_that_may_change_exists() -> None:
    for name in RESUMABLE:
        section: Any = TrainConfig()
        for key in name.split("."):
            section = getattr(section, key)


def data(num_users: int = 6, num_items: int = 30) -> Data:
    catalog = small_catalog(num_items)
    examples = examples_of(small_catalog(), num_users)
    return Data(catalog=catalog, train=examples, valid=examples[:2])


def test_a_resume_on_other_data_is_refused_and_names_what_changed(run_dir: Path) -> None:
    check_data(data(), run_dir)
    check_data(data(), run_dir)
    with pytest.raises(UsageError, match=r"catalog\.items was 30, now 31.*--fresh") as refused:
        check_data(data(num_items=31), run_dir)
    assert "train" not in str(refused.value)
    with pytest.raises(UsageError, match=r"train\.sequences was 6, now 7"):
        check_data(data(7), run_dir)
    same = data()
    same.train[3] = replace(same.train[3], target_index=(same.train[3].target_index + 1) % 30)
    with pytest.raises(UsageError, match=r"train\.digest was"):
        check_data(same, run_dir)


@pytest.mark.parametrize("name", ["config.json", "finished.json", "data.json"])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path, run_dir: Path, name: str) -> None:
    check_data(data(), run_dir)
    (run_dir / name).write_text('{"seed": 1,')

    def resume() -> None:
        prepare_run_dir(configured(tmp_path), run_dir, resume=True, fresh=False)
        check_data(data(), run_dir)

    with pytest.raises(UsageError, match=rf"{name} is damaged .*--fresh"):
        resume()
