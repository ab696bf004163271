"""The warehouse on a local path and on S3 (moto's server on loopback)."""

import hashlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2ec import schemas
from r2ec.errors import NotReadyError, R2ecError, UsageError
from r2ec.storage import Warehouse


def catalog_rows(indices: list[int]) -> pa.Table:
    columns = {
        "item_index": indices,
        "item_id": [f"item-{index}" for index in indices],
        "title": ["Tinte für Drucker 🖨"] * len(indices),
        "description": [None] * len(indices),
        "category": ["Office > Ink"] * len(indices),
        "store": [None] * len(indices),
        "price": [None] * len(indices),
        "first_seen": [datetime(2024, 1, 1, tzinfo=UTC)] * len(indices),
        "text_hash": ["0" * 64] * len(indices),
    }
    return pa.table(columns, schema=schemas.CATALOG.schema)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(str(tmp_path / "warehouse"))


def test_a_written_table_is_read_back_in_file_and_row_order(warehouse: Warehouse) -> None:
    warehouse.write_parquet(catalog_rows([3, 2]), "catalog", "version=2024-01-01", "b.parquet")
    warehouse.write_parquet(catalog_rows([0, 1]), "catalog", "version=2024-01-01", "a.parquet")
    rows = warehouse.read_table(schemas.CATALOG, version="2024-01-01")
    assert rows.schema == schemas.CATALOG.schema
    assert rows["item_index"].to_pylist() == [0, 1, 3, 2]
    only = warehouse.read_table(schemas.CATALOG, columns=["item_id"], version="2024-01-01")
    assert only.column_names == ["item_id"]


def test_batches_hold_the_rows_of_read_table(warehouse: Warehouse) -> None:
    for start in (0, 5):
        rows = catalog_rows(list(range(start, start + 5)))
        warehouse.write_parquet(rows, "catalog", "version=v1", f"part-{start}.parquet")
    batches = list(warehouse.iter_batches(schemas.CATALOG, batch_rows=2, version="v1"))
    assert max(batch.num_rows for batch in batches) == 2
    joined = pa.Table.from_batches(batches)
    assert joined.equals(warehouse.read_table(schemas.CATALOG, version="v1"))


def test_the_same_rows_give_the_same_bytes_and_the_checksum_is_of_the_file(
    warehouse: Warehouse,
) -> None:
    first = warehouse.write_parquet(catalog_rows([0, 1]), "catalog", "version=a", "x.parquet")
    halves = pa.concat_tables([catalog_rows([0]), catalog_rows([1])])
    second = warehouse.write_parquet(halves, "catalog", "version=b", "x.parquet")
    assert first.sha256 == second.sha256
    data = Path(warehouse.path(first.path)).read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (first.sha256, first.num_bytes)


def test_staged_hidden_and_temporary_files_are_not_listed(warehouse: Warehouse) -> None:
    for name in (
        "catalog/version=v1/a.parquet",
        "catalog/version=v1/_a.parquet",
        "catalog/version=v1/.a.parquet.1.tmp",
        "catalog/_version=v0/a.parquet",
        "catalog/version=v1/_SUCCESS",
        "_staging/score/a.parquet",
    ):
        warehouse.replace_file(b"", name)
    assert warehouse.list_files() == ["catalog/version=v1/a.parquet"]
    assert warehouse.list_files("_staging") == ["_staging/score/a.parquet"]
    assert warehouse.partitions("catalog", "version") == ["v1"]


def test_spark_style_files_are_cast_to_the_schema(warehouse: Warehouse) -> None:
    spark = pa.table(
        {
            "text_hash": ["h"],  # another column order, nullable, lists of "element"
            "embedding": pa.array([[1.0, 2.0]], pa.list_(pa.field("element", pa.float32()))),
            "item_index": pa.array([0], pa.int64()),
        }
    )
    path = Path(warehouse.path("item_embeddings", "model=0123456789ab", "part-0.zstd.parquet"))
    path.parent.mkdir(parents=True)
    pq.write_table(spark, path)
    rows = warehouse.read_table(schemas.ITEM_EMBEDDINGS, model="0123456789ab")
    assert rows.schema == schemas.ITEM_EMBEDDINGS.schema


def test_embeddings_keep_their_fixed_size(warehouse: Warehouse) -> None:
    schema = schemas.item_embeddings_schema(2)
    rows = pa.table(
        {"item_index": [0], "text_hash": ["h"], "embedding": [[1.0, 2.0]]}, schema=schema
    )
    warehouse.write_parquet(rows, "item_embeddings", "model=m", "a.parquet")
    assert warehouse.read_table(schemas.ITEM_EMBEDDINGS, model="m").schema == schema
    batches = warehouse.iter_batches(schemas.ITEM_EMBEDDINGS, batch_rows=8, model="m")
    assert next(batches).schema == schema


def test_a_missing_partition_says_what_is_there_and_what_builds_it(warehouse: Warehouse) -> None:
    warehouse.write_parquet(catalog_rows([0]), "catalog", "version=2024-01-01", "a.parquet")
    with pytest.raises(NotReadyError, match=r"version=2024-01-02.*there is: 2024-01-01.*catalog"):
        warehouse.read_table(schemas.CATALOG, version="2024-01-02")
    with pytest.raises(NotReadyError, match="r2ec-cli embed"):
        warehouse.read_table(schemas.ITEM_EMBEDDINGS, model="m")


@pytest.mark.parametrize("damage", ["cut", "empty", "overwritten"])
def test_a_damaged_file_is_named_with_what_builds_it(warehouse: Warehouse, damage: str) -> None:
    warehouse.write_parquet(catalog_rows([0, 1]), "catalog", "version=v1", "a.parquet")
    file = Path(warehouse.path("catalog", "version=v1", "a.parquet"))
    data = file.read_bytes()
    middle = len(data) // 2
    file.write_bytes(
        {
            "cut": data[:-20],
            "empty": b"",
            "overwritten": data[:middle] + bytes(len(data) - middle - 8) + data[-8:],
        }[damage]
    )
    told = r"a\.parquet cannot be read as Parquet.*build_catalog"
    with pytest.raises(NotReadyError, match=told):
        warehouse.read_table(schemas.CATALOG, version="v1")
    with pytest.raises(NotReadyError, match=told):
        list(warehouse.iter_batches(schemas.CATALOG, batch_rows=8, version="v1"))


def test_a_table_without_a_column_is_named(warehouse: Warehouse) -> None:
    rows = catalog_rows([0]).drop_columns(["title"])
    warehouse.write_parquet(rows, "catalog", "version=v1", "a.parquet")
    with pytest.raises(UsageError, match="lacks column title"):
        warehouse.read_table(schemas.CATALOG, version="v1")


def test_paths_do_not_lead_out_of_the_warehouse(warehouse: Warehouse) -> None:
    for part in ("../x", "/etc/passwd", "a/../../b"):
        with pytest.raises(UsageError):
            warehouse.path(part)
    for value in ("../../x", "a/b", "", "_x"):
        with pytest.raises(UsageError):
            warehouse.read_table(schemas.HISTORIES, date=value)
    with pytest.raises(UsageError, match="partitioned by date, run_id"):
        warehouse.read_table(schemas.RECOMMENDATIONS, run_id="r")


def test_a_replaced_file_leaves_no_temporary_behind(warehouse: Warehouse) -> None:
    warehouse.replace_file(b"one", "runs", "f")
    warehouse.replace_file(b"two", "runs", "f")
    assert warehouse.read_file("runs", "f") == b"two"
    assert os.listdir(warehouse.path("runs")) == ["f"]


def test_a_cut_off_move_goes_on(warehouse: Warehouse) -> None:
    for name in ("a", "b/c"):
        warehouse.replace_file(name.encode(), "_staging", "x", name)
    warehouse.replace_file(b"moved before", "live", "z")
    warehouse.move_dir(("_staging", "x"), ("live",))
    assert warehouse.list_files("live", suffix="") == ["live/a", "live/b/c", "live/z"]
    assert not warehouse.exists("_staging", "x")
    warehouse.move_dir(("_staging", "x"), ("live",))
    warehouse.remove_dir("live")
    warehouse.remove_dir("live")
    assert not warehouse.exists("live")


def test_an_unwritable_warehouse_is_named_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder must be")
    with pytest.raises(R2ecError, match=r"cannot write.*file/warehouse.*--warehouse") as caught:
        Warehouse(str(tmp_path / "file" / "warehouse")).check_writable()
    assert caught.value.exit_code == 1
    good = Warehouse(str(tmp_path / "good"))
    good.check_writable()
    assert os.listdir(good.path("_staging")) == []


def test_addresses_for_spark_and_duckdb() -> None:
    assert Warehouse("/data/w/").uri("catalog") == "/data/w/catalog"
    s3 = Warehouse("s3a://shop/r2ec/")
    assert s3.path("runs") == "shop/r2ec/runs"
    assert (s3.uri("runs"), s3.duckdb_uri("runs")) == (
        "s3a://shop/r2ec/runs",
        "s3://shop/r2ec/runs",
    )
    for root in ("", "ftp://x/y", "s3://"):
        with pytest.raises(UsageError):
            Warehouse(root)


def test_the_lowest_layer_needs_no_torch_pyspark_or_pydantic() -> None:
    code = (
        "import sys, r2ec.storage, r2ec.schemas, r2ec.errors;"
        "print({'torch', 'pyspark', 'pydantic', 'click', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
