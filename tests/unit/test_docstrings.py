"""What is public says what it is, and which of a user's mistakes it raises."""

import ast
from collections.abc import Iterator

import pytest

from tests.factories.commands import REPOSITORY

FILES = sorted((REPOSITORY / "r2ec").rglob("*.py"))
MISTAKES = ("UsageError", "NotReadyError", "GateError")
# Methods whose meaning is that of the class they come from.
INHERITED = ("format", "emit", "list_commands", "get_command", "format_commands")

Definition = ast.FunctionDef | ast.ClassDef


def public(node: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public(child)


def is_command(node: Definition) -> bool:
    """Decorated by click: its docstring is the help that people read."""
    return any("command" in ast.unparse(decorator) for decorator in node.decorator_list)


def raised(node: ast.FunctionDef) -> set[str]:
    errors = (child.exc for child in ast.walk(node) if isinstance(child, ast.Raise) and child.exc)
    names = (ast.unparse(error).partition("(")[0].split(".")[-1] for error in errors)
    return {name for name in names if name in MISTAKES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_what_is_public_says_what_it_is_and_what_it_raises(file) -> None:
    tree = ast.parse(file.read_text("utf-8"))
    assert not tree.body or ast.get_docstring(tree)
    for node in public(tree):
        text = ast.get_docstring(node)
        assert text or node.name in INHERITED, f"{node.name} has no docstring"
        if isinstance(node, ast.FunctionDef) and text and not is_command(node):
            untold = {name for name in raised(node) if name not in text}
            assert not untold, f"{node.name} does not tell that it raises {untold}"
