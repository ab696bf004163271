"""The warehouse on S3: real pyarrow S3 calls against moto's server on loopback."""

from collections.abc import Iterator

import pyarrow as pa
import pytest

from r2ec import schemas
from r2ec.errors import NotReadyError, R2ecError
from r2ec.storage import Warehouse
from tests.factories.object_store import BUCKET, object_store

EMBEDDINGS = pa.table(
    {"item_index": [0, 1], "text_hash": ["a", "b"], "embedding": [[1.0, 0.0], [0.0, 1.0]]},
    schema=schemas.item_embeddings_schema(2),
)


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    with object_store() as environment:
        yield environment


@pytest.fixture
def warehouse(
    store: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Warehouse:
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    return Warehouse(f"s3://{BUCKET}/{request.node.name}")


def test_a_table_goes_to_s3_and_back(warehouse: Warehouse) -> None:
    warehouse.check_writable()
    warehouse.write_parquet(EMBEDDINGS, "item_embeddings", "model=m", "a.parquet")
    assert warehouse.read_table(schemas.ITEM_EMBEDDINGS, model="m").equals(EMBEDDINGS)
    batches = warehouse.iter_batches(schemas.ITEM_EMBEDDINGS, batch_rows=1, model="m")
    assert sum(batch.num_rows for batch in batches) == 2
    assert warehouse.partitions("item_embeddings", "model") == ["m"]
    with pytest.raises(NotReadyError, match="there is: m"):
        warehouse.read_table(schemas.ITEM_EMBEDDINGS, model="n")


def test_folders_move_file_by_file_on_s3(warehouse: Warehouse) -> None:
    for name in ("a", "b/c", "b/d"):
        warehouse.replace_file(name.encode(), "_staging", "x", name)
    warehouse.move_dir(("_staging", "x"), ("live",))
    assert warehouse.list_files("live", suffix="") == ["live/a", "live/b/c", "live/b/d"]
    assert warehouse.list_files("_staging", suffix="") == []
    assert warehouse.read_file("live", "b", "c") == b"b/c"
    warehouse.remove_file("live", "a")
    warehouse.remove_file("live", "a")
    warehouse.remove_dir("live")
    warehouse.remove_dir("live")
    assert warehouse.list_files(suffix="") == []


def test_a_missing_bucket_is_named_with_the_address(warehouse: Warehouse) -> None:
    with pytest.raises(R2ecError, match=r"no-such-bucket/w.*AWS_ENDPOINT_URL"):
        Warehouse("s3://no-such-bucket/w").check_writable()
