"""Deletion of a user on an object store: real S3 calls against moto's server on loopback."""

from collections.abc import Iterator

import pytest

from r2ec.infer.forget import forget_users
from r2ec.infer.publish import publish
from r2ec.row_counts import check_row_counts
from r2ec.storage import Warehouse
from tests.factories.object_store import BUCKET, object_store
from tests.factories.whole_warehouse import (
    DAYS,
    NUM_USERS,
    all_rows,
    mentions,
    names,
    write_everything,
)

USER = "u0003"


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    with object_store() as environment:
        yield environment


def test_on_an_object_store_too_the_user_is_gone_and_all_others_stay(
    store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    warehouse = Warehouse(f"s3://{BUCKET}/warehouse")
    write_everything(warehouse)
    left = ("_staging", "etl", "build_sequences-abc", "_temporary", "part-0")
    warehouse.replace_file(f"half a file of {USER}".encode(), *left)
    before = all_rows(warehouse)
    done = forget_users(warehouse, [USER, "nobody"])
    assert done.unknown_users == ("nobody",)
    assert done.num_rows == 15
    assert mentions(warehouse, USER) == []
    assert check_row_counts(warehouse) == []
    assert publish(warehouse, DAYS[1]).num_users == NUM_USERS - 1
    after = all_rows(warehouse)
    for path, lines in before.items():
        if not path.startswith("runs/"):
            assert after[path] == [line for line in lines if not names(line, USER)]
    assert not [path for path in warehouse.all_files() if path.endswith(".tmp")]
    assert forget_users(warehouse, [USER]).removals == ()


def test_an_error_while_a_file_is_replaced_leaves_the_one_that_was_there(
    store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    warehouse = Warehouse(f"s3://{BUCKET}/replacing")
    warehouse.replace_file(b"whole", "t", "a")

    def break_off() -> None:
        with warehouse.replacing("t", "a") as stream:
            stream.write(b"half")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        break_off()
    assert warehouse.read_file("t", "a") == b"whole"
    assert warehouse.all_files() == ["t/a"]
