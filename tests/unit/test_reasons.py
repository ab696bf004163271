import ast
from pathlib import Path

from r2ec.etl.reasons import EXAMPLE_CHARS, REMEDIES, reasons_table
from r2ec.etl.times import UNIT_REASONS

ETL = Path("r2ec/etl")


def test_the_table_has_a_line_and_an_example_for_each_reason():
    table = reasons_table({"missing_user": 7, "bad_time": 120}, {"bad_time": "U1,B1,5,noon"})
    assert table.splitlines() == [
        "reason        rows  meaning",
        "bad_time       120  the time cannot be read; check --time-column, --time-unit and "
        "--time-format",
        "                    e.g. U1,B1,5,noon",
        "missing_user     7  no user; check --user-column",
    ]


def test_an_example_is_one_short_line_without_terminal_codes():
    line = reasons_table({"x": 1}, {"x": "a\x1b[31m\nb\0" + "long " * 100}).splitlines()[-1]
    shown = line.split("e.g. ")[1]
    assert shown.startswith("a\ufffd[31m\ufffdb\ufffdlong")
    assert len(shown) == EXAMPLE_CHARS
    assert shown.endswith("…")


def test_every_reason_that_the_code_gives_is_explained():
    """Reasons stand in the code as texts: in pairs with a condition, or in `when`."""
    given = set(UNIT_REASONS.values())
    for name in ("events", "catalog", "text_rows", "rows"):
        for node in ast.walk(ast.parse((ETL / f"{name}.py").read_text())):
            texts = []
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("when", "lit"):
                texts = node.args
            elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
                is_pair = not isinstance(node.elts[0], ast.Constant | ast.Starred)
                texts = node.elts[1:] if is_pair else []
            values = [text.value for text in texts if isinstance(text, ast.Constant)]
            given |= {v for v in values if isinstance(v, str) and "_" in v and " " not in v}
    assert {"missing_user", "broken_row", "bad_quantity", "broken_file"} <= given
    assert given <= set(REMEDIES)
