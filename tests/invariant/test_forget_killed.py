"""A deletion that is killed and run again ends as one that was not."""

import shutil
from pathlib import Path

from r2ec.infer.forget import forget_users
from r2ec.infer.publish import publish
from r2ec.row_counts import check_row_counts
from r2ec.storage import Warehouse
from tests.factories.kill import run_and_kill
from tests.factories.whole_warehouse import (
    DAYS,
    NUM_USERS,
    all_rows,
    mentions,
    write_everything,
)

USER = "u0003"
# A step is a file begun, renamed or removed; a prime, so that each kind is met.
STRIDE = 5


def test_killed_at_any_step_a_second_run_completes_it(tmp_path: Path) -> None:
    write_everything(Warehouse(str(tmp_path / "whole")))
    _forget(_copy(tmp_path, "reference"))
    expected = _table_rows(str(tmp_path / "reference"))
    step, is_killed = 0, True
    while is_killed:
        step += STRIDE
        root = _copy(tmp_path, str(step))
        is_killed = run_and_kill(_forget, root, step=step, root=root)
        _forget(root)
        warehouse = Warehouse(root)
        assert check_row_counts(warehouse) == [], step
        assert mentions(warehouse, USER) == [], step
        assert publish(warehouse, DAYS[0]).num_users == NUM_USERS - 1, step
        assert _table_rows(root) == expected, step
        tables = (path for path in warehouse.all_files() if not path.startswith("_"))
        assert not [path for path in tables if path.endswith(".tmp")], step
    assert step > 50


def _copy(folder: Path, name: str) -> str:
    shutil.copytree(folder / "whole", folder / name)
    return str(folder / name)


def _forget(root: str) -> None:
    forget_users(Warehouse(root), [USER])


def _table_rows(root: str) -> dict[str, list[str]]:
    """The pointers apart, which hold the time of their publishing."""
    rows = all_rows(Warehouse(root))
    return {path: lines for path, lines in rows.items() if not path.startswith("runs/")}
