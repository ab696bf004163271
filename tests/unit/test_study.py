"""Studies: what is run, what is kept, and what the table says."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2ec.config import load_train_config
from r2ec.errors import NotReadyError, R2ecError, UsageError
from r2ec.metrics import bootstrap_interval
from r2ec.study.bootstrap import interval, paired_difference
from r2ec.study.config import load_study, overrides
from r2ec.study.picture import draw
from r2ec.study.runs import commands, plan_runs
from r2ec.study.table import build_table, markdown, write_table

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.toml"))
STUDY = """
title = "Small"
question = "Does it help?"
config = "{config}"
warehouse = "warehouse"
base_model = "base"
seeds = [1, 2]
[settings]
"model.tau" = 0.1
[[rows]]
name = "popular"
baseline = "popularity"
[[rows]]
name = "plain"
settings = {{ "contrastive.lr" = 0.01 }}
[[rows]]
name = "more"
start = "plain"
budgets = [0, 8]
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    file = tmp_path / "study.toml"
    file.write_text(STUDY.format(config=ROOT / "configs" / "small.toml"))
    return file


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_study_of_the_repository_is_valid_with_its_trainings(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(str(path))
    for row in study.rows:
        if row.trains:
            config = load_train_config(study.config, overrides(study, row))
            assert config.contrastive.steps + config.recpo.steps > 0
    assert f"study {path.relative_to(ROOT)}" in path.read_text(), "the head says how to run it"


def test_rows_run_with_every_seed_and_start_from_the_same_one(
    study_file: Path, tmp_path: Path
) -> None:
    study = load_study(str(study_file))
    runs = plan_runs(study, tmp_path)
    assert [(run.row.name, run.seed) for run in runs] == [
        ("popular", 1),
        ("plain", 1),
        ("plain", 2),
        ("more", 1),
        ("more", 2),
    ]
    train, *evaluations = commands(study, runs[-1])
    assert train[train.index("--base-model") + 1] == str(runs[2].model)
    assert {"seed=2", "model.tau=0.1"} < set(train)
    assert "contrastive.lr=0.01" not in train
    assert [line[line.index("--reasoning-budget") + 1] for line in evaluations] == list("0808")
    assert len(commands(study, runs[0])) == 2, "a baseline is evaluated on each split"


def test_a_run_is_named_by_all_that_decides_it(study_file: Path, tmp_path: Path) -> None:
    def folders() -> list[str]:
        return [run.folder.name for run in plan_runs(load_study(str(study_file)), tmp_path)]

    before = folders()
    assert folders() == before
    study_file.write_text(study_file.read_text().replace("0.01", "0.02"))
    changed = [one != other for one, other in zip(before, folders(), strict=True)]
    assert changed == [False, True, True, True, True], "the start counts too"


def fill(study_file: Path, folder: Path, ranks: dict[str, list[list[int]]]) -> None:
    """Ranks as finished runs leave them; lists are seeds."""
    for run in plan_runs(load_study(str(study_file)), folder):
        if run.row.name not in ranks:
            continue
        run.folder.mkdir(parents=True)
        for split in ("valid", "test"):
            for budget in run.row.budgets or (None,):
                found = ranks[run.row.name][run.seed - 1]
                table = pa.table({"sequence_id": range(len(found)), "rank": found})
                pq.write_table(table, run.ranks(split, budget))
        (run.folder / "done.json").write_text("{}")


def test_the_table_has_means_over_seeds_and_paired_differences(
    study_file: Path, tmp_path: Path
) -> None:
    hard = [1, 50] * 200
    better = [1, 5] * 200
    fill(study_file, tmp_path, {"popular": [hard], "plain": [better, hard]})
    study = load_study(str(study_file))
    lines = build_table(study, plan_runs(study, tmp_path))
    assert {line.row for line in lines} == {"popular", "plain"}, "unfinished rows are left out"
    first, plain = (
        next(x for x in lines if (x.row, x.split, x.metric) == (row, "test", "hit_rate@10"))
        for row in ("popular", "plain")
    )
    assert (first.value, first.difference, first.seeds) == (0.5, None, 1)
    assert (plain.value, plain.lowest_seed, plain.highest_seed) == (0.75, 0.5, 1.0)
    assert plain.difference == pytest.approx(0.25)
    # One seed helps half of the users and the other none: drawn twice, either is the whole mean.
    assert plain.difference_low == pytest.approx(0.0, abs=0.01)
    assert plain.difference_high == pytest.approx(0.5, abs=0.06)


def test_intervals_hold_users_and_seeds_and_pairs_are_narrower() -> None:
    draws = np.random.default_rng(1)
    hard = draws.random(400)
    same = np.stack([hard, hard])
    low, high = interval(same)
    assert (low, high) == pytest.approx(bootstrap_interval(hard, seed=5), abs=0.005)
    value, low, high = paired_difference(same + 0.1, same)
    assert (value, low, high) == pytest.approx((0.1, 0.1, 0.1))
    users = np.repeat([f"u{n:03}" for n in range(400)], 10)
    assert interval(np.repeat(same, 10, axis=1), users) == pytest.approx(interval(same))
    spread = np.stack([hard, hard + 1])
    assert np.subtract(*interval(spread)[::-1]) > 0.8
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(same, same[:, 1:])


def test_ranks_of_other_sequences_are_not_paired(study_file: Path, tmp_path: Path) -> None:
    fill(study_file, tmp_path, {"popular": [[1, 2, 3]], "plain": [[1, 2, 3]] * 2})
    study = load_study(str(study_file))
    runs = plan_runs(study, tmp_path)
    other = pa.table({"sequence_id": [7, 8, 9], "rank": [1, 2, 3]})
    pq.write_table(other, runs[-3].ranks("valid", None))
    with pytest.raises(R2ecError, match="other sequences"):
        build_table(study, runs)


def test_table_and_picture_are_written(study_file: Path, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    ranks = {
        name: [draws.integers(1, 60, 90).tolist()] * 2 for name in ("popular", "plain", "more")
    }
    fill(study_file, tmp_path, ranks)
    study = load_study(str(study_file))
    lines = build_table(study, plan_runs(study, tmp_path))
    write_table(lines, study, tmp_path)
    assert pq.read_table(tmp_path / "table.parquet").num_rows == len(lines) == 4 * 2 * 3
    text = markdown(lines, study)
    assert "## test, 90 sequences" in text
    assert "| more, 8 tokens | " in text
    for kind in ("svg", "png"):
        draw(lines, study, tmp_path / f"picture.{kind}")
        assert (tmp_path / f"picture.{kind}").stat().st_size > 5000


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('start = "plain"', 'start = "popular"', "no training above it"),
        ('name = "more"', 'name = "plain"', "two rows are named 'plain'"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "each once"),
        ('baseline = "popularity"', 'baseline = "popularity"\nbudgets = [1]', "takes no other"),
        ("contrastive.lr", "contrastive.speed", "contrastive.speed"),
        ("question =", "questions =", "questions"),
    ],
)
def test_wrong_studies_are_named(study_file: Path, before: str, after: str, words: str) -> None:
    text = study_file.read_text()
    assert before in text
    study_file.write_text(text.replace(before, after))
    with pytest.raises(UsageError, match=words):
        load_study(str(study_file))


def test_a_missing_study_is_named() -> None:
    with pytest.raises(NotReadyError, match="configs/studies"):
        load_study("nowhere.toml")
