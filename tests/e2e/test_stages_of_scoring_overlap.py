"""Tokenising, generating, ranking and writing at once; the rows are those of one by one."""

import threading
from pathlib import Path
from typing import Any

import pytest

from r2ec import schemas
from r2ec.infer import scorer
from r2ec.infer.writer import ShardWriter
from r2ec.storage import Warehouse
from r2ec.text.tokens import PromptEncoder
from tests.factories.commands import cli
from tests.factories.models import save_small_model
from tests.factories.shop import DATE, write_shop

pytestmark = pytest.mark.e2e

NUM_USERS, USERS_PER_PART = 12, 3


class Steps:
    """Counts what was done and waits until others have come far enough."""

    def __init__(self) -> None:
        self.counts = {"tokenised": 0, "generated": 0, "ranked": 0, "written": 0}
        self._changed = threading.Condition()

    def done(self, step: str) -> None:
        with self._changed:
            self.counts[step] += 1
            self._changed.notify_all()

    def come(self, **counts: int) -> bool:
        """Whether the counts come about within some seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all(self.counts[step] >= count for step, count in counts.items()), 20
            )


def test_the_next_part_is_tokenised_and_the_last_one_written_while_a_part_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    catalog = write_shop(warehouse.root, num_users=NUM_USERS)
    save_small_model(tmp_path / "model", catalog)
    at = ("--warehouse", warehouse.root, "--model", tmp_path / "model")
    assert cli("embed", *at) == 0
    steps, seen = Steps(), []
    generate, tokenise = scorer.sample, PromptEncoder.user_ids
    rank, write = scorer.top_k, ShardWriter.write_part

    def generating(*args: Any, **options: Any) -> Any:
        part = steps.counts["generated"]
        if part == 1:
            # Part 1 is being generated: part 2 must get its prompts, part 0 its lists and files.
            seen.append(steps.come(tokenised=3 * USERS_PER_PART, ranked=1, written=1))
        groups = generate(*args, **options)
        steps.done("generated")
        return groups

    def after(step: str, work: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            result = work(*args, **options)
            steps.done(step)
            return result

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(scorer, "sample", generating)
        patch.setattr(PromptEncoder, "user_ids", after("tokenised", tokenise))
        patch.setattr(scorer, "top_k", after("ranked", rank))
        patch.setattr(ShardWriter, "write_part", after("written", write))
        score = ("score", *at, "--date", DATE)
        assert cli(*score, "--users-per-part", USERS_PER_PART) == 0
    assert seen == [True]
    assert steps.counts == {
        "tokenised": NUM_USERS,
        "generated": NUM_USERS // USERS_PER_PART,
        "ranked": NUM_USERS // USERS_PER_PART,
        "written": NUM_USERS // USERS_PER_PART,
    }
    before = {table: _rows(warehouse, table) for table in _TABLES}
    assert cli(*score, "--users-per-part", NUM_USERS) == 0
    for table, rows in before.items():
        for row, again in zip(rows, _rows(warehouse, table), strict=True):
            # One batch of all users rounds otherwise than four.
            assert row.pop("score", 0) == pytest.approx(again.pop("score", 0), abs=1e-5)
            assert row == again


_TABLES = (schemas.RECOMMENDATIONS, schemas.REASONING)


def _rows(warehouse: Warehouse, table: schemas.Table) -> list[dict[str, Any]]:
    rows = warehouse.read_table(table, date=DATE).to_pylist()
    return sorted(
        ({name: value for name, value in row.items() if name != "run_id"} for row in rows),
        key=lambda row: (row["user_id"], row.get("rank", 0)),
    )
