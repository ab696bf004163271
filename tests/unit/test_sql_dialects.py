import pytest
import sqlglot

from r2ec import sql_files

FILES = [file for folder in ("queries", "views") for file in sql_files.read_folder(folder)]


@pytest.mark.parametrize("dialect", ["trino", "bigquery"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_query_and_view_parses_in_other_engines(file, dialect):
    """As it stands, and as sqlglot translates it; an element that cannot be translated raises."""
    for text in sql_files.statements(file.text):
        sqlglot.parse_one(text, read=dialect)
        (translated,) = sqlglot.transpile(
            text, read="spark", write=dialect, unsupported_level=sqlglot.ErrorLevel.RAISE
        )
        assert sqlglot.parse_one(translated, read=dialect).find(sqlglot.exp.Select)
