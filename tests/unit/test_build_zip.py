import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build(target):
    subprocess.run([sys.executable, ROOT / ".ci" / "build_zip.py", target], check=True)
    return target


def test_same_sources_give_same_bytes(tmp_path):
    one, other = build(tmp_path / "one.zip"), build(tmp_path / "other.zip")
    assert one.read_bytes() == other.read_bytes()


def test_the_zip_holds_code_and_sql_and_nothing_compiled(tmp_path):
    names = zipfile.ZipFile(build(tmp_path / "r2ec.zip")).namelist()
    assert "r2ec/__init__.py" in names
    assert "r2ec/etl/__init__.py" in names
    assert "r2ec/sql/views/v_recommendations.sql" in names
    assert not [name for name in names if "__pycache__" in name]
    assert names == sorted(names)


def test_sql_is_found_inside_the_zip(tmp_path):
    """As on an executor: nothing but the zip on the path, and no pydantic, click or rich."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "sys.modules.update(dict.fromkeys(['pydantic', 'click', 'rich', 'torch', 'numpy'])); "
        "from r2ec import sql_files, logs, schemas, errors; "
        "assert sql_files.__file__.startswith(sys.argv[1]), sql_files.__file__; "
        "print([file.name for file in sql_files.read_folder('views')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, build(tmp_path / "r2ec.zip")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['v_recommendations', 'v_user_history']"
