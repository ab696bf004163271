"""`docs/inputs.md` says what there is: every reason, mapping, setting and option."""

import contextlib
import io
import re
from dataclasses import fields
from pathlib import Path

import pytest

from r2ec.etl.arguments import parse_catalog_job, parse_sequences_job
from r2ec.etl.inputs import InteractionInput, ItemInput
from r2ec.etl.mapping import NOT_MAPPED, READY, load_mapping
from r2ec.etl.reasons import REMEDIES

PAGE = Path("docs/inputs.md").read_text(encoding="utf-8")


def test_every_reason_has_a_row_and_every_row_a_reason():
    section = PAGE.split("## Rejected rows")[1]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.M)) == set(REMEDIES)


def test_every_ready_mapping_and_setting_is_explained():
    section = PAGE.split("## Mappings")[1].split("## Metadata")[0]
    assert all(f"| `{name}` |" in section for name in READY)
    known = {field.name for kind in (InteractionInput, ItemInput) for field in fields(kind)}
    for setting in known - NOT_MAPPED:
        assert f"`{setting}`" in section, setting


def test_the_example_is_a_mapping(tmp_path):
    path = tmp_path / "example.toml"
    path.write_text(PAGE.split("```toml\n")[1].split("```")[0])
    mapping = load_mapping(str(path))
    assert mapping["interactions"]["user_column"] == ("CustomerID", "Customer ID")


@pytest.mark.parametrize("parse", [parse_catalog_job, parse_sequences_job])
def test_options_that_the_page_names_are_there(parse):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        parse(["--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", shown.getvalue()))
    only_catalog = {"--items", "--items-table", "--items-format"}
    only_sequences = {"--max-user-events-per-day"}
    left_out = only_sequences if parse is parse_catalog_job else only_catalog
    named = set(re.findall(r"--[a-z][a-z-]+", PAGE))
    assert named - left_out <= options
