import pyarrow as pa
import pytest
from click.testing import CliRunner

from r2ec.cli.main import cli
from r2ec.errors import GateError, NotReadyError
from r2ec.row_counts import check_row_counts, write_row_counts
from r2ec.storage import Warehouse

ROWS = pa.table({"value": [1, 2, 3]})
PARTS = ("sequences", "split=train")


@pytest.fixture
def warehouse(tmp_path):
    found = Warehouse(str(tmp_path))
    for name in ("a.parquet", "b.parquet"):
        found.write_parquet(ROWS, *PARTS, name)
    assert write_row_counts(found, *PARTS) == 6
    return found


def test_files_as_they_were_written_pass(warehouse):
    assert check_row_counts(warehouse) == []


def test_a_file_that_is_lost_added_shorter_or_broken_is_named(warehouse, tmp_path):
    folder = tmp_path.joinpath(*PARTS)
    warehouse.write_parquet(ROWS.slice(1), *PARTS, "a.parquet")
    (folder / "b.parquet").unlink()
    warehouse.write_parquet(ROWS, *PARTS, "c.parquet")
    place = "/".join(PARTS)
    assert check_row_counts(warehouse) == [
        f"{place}/a.parquet has 2 rows: 3 were written",
        f"{place}/b.parquet is missing: 3 rows were written",
        f"{place}/c.parquet was not written by the job",
    ]
    (folder / "a.parquet").write_bytes(b"PAR1 not any more")
    assert "a.parquet cannot be read" in check_row_counts(warehouse)[0]


def test_the_audit_command_names_a_file_that_cannot_be_read(warehouse, tmp_path):
    (tmp_path.joinpath(*PARTS) / "a.parquet").write_bytes(b"PAR1 not any more")
    done = CliRunner().invoke(cli, ["audit", "--warehouse", str(tmp_path)])
    assert isinstance(done.exception, GateError)
    assert "a.parquet cannot be read" in str(done.exception)


def test_there_must_be_a_table_to_audit(tmp_path):
    done = CliRunner().invoke(cli, ["audit", "--warehouse", str(tmp_path)])
    assert isinstance(done.exception, NotReadyError)


def test_the_audit_command_counts_and_fails_with_4(warehouse, tmp_path):
    (tmp_path.joinpath(*PARTS) / "b.parquet").unlink()
    (tmp_path.joinpath(*PARTS) / "a.parquet").unlink()
    done = CliRunner().invoke(cli, ["audit", "--warehouse", str(tmp_path)])
    assert "FAILED row counts" in done.output
    assert getattr(done.exception, "exit_code", done.exit_code) == 4
