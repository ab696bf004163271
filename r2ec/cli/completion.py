"""What the shell offers after TAB, where click does not know it by itself.

The shell calls `r2ec-cli` for each TAB, so nothing heavy is imported and nothing raises.
"""

import click
from click.shell_completion import CompletionItem


def complete_folder(
    _ctx: click.Context, _option: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Folders, as the shell finds them."""
    return [CompletionItem(incomplete, type="dir")]


def complete_sql_name(
    _ctx: click.Context, _argument: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of the project's queries, audits and views; files where none begins so."""
    from r2ec import sql_files

    own = [file.name for folder in sql_files.FOLDERS for file in sql_files.read_folder(folder)]
    names = [CompletionItem(name) for name in own if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]
