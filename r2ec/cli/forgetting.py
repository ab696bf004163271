"""`forget`: the rows of some users leave the warehouse."""

import sys
from typing import TYPE_CHECKING

import click

from r2ec.cli.options import existing_warehouse, warehouse_option
from r2ec.errors import UsageError

if TYPE_CHECKING:
    from r2ec.infer.forget import Forgotten

SHOWN_USERS = 10


@click.command(epilog="Example: r2ec-cli forget --warehouse warehouse --dry-run U1 U2")
@warehouse_option
@click.argument("users", nargs=-1, metavar="[USER]...")
@click.option(
    "--users",
    "file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    envvar="R2EC_FORGET_USERS",
    help="Text file, a user_id a line.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(
    warehouse: str, users: tuple[str, ...], file: str | None, dry_run: bool, yes: bool
) -> None:
    """Delete all rows of some users from every table of the warehouse, for good.

    Sequences, histories, lists and reasonings of every date, rejected rows that name the user, and
    what was staged. Started again after a stop it goes on; a second run finds nothing. The raw log
    and models are left as they are: docs/operations.md, "Deleting a user", says what to do there.
    """
    from r2ec.infer.forget import forget_users

    wanted = _wanted(users, file)
    place = existing_warehouse(warehouse)
    if dry_run or not yes:
        planned = forget_users(place, wanted, is_dry_run=True)
        _show(planned, place.path(), "to be removed")
        if dry_run or not planned.removals:
            return
        if not sys.stdin.isatty():
            raise UsageError("nothing was removed: give --yes where nobody can be asked")
        click.confirm(f"Remove these rows of {len(wanted):,} users for good?", abort=True)
    _show(forget_users(place, wanted), place.path(), "removed")


def _wanted(users: tuple[str, ...], file: str | None) -> set[str]:
    wanted = set(users)
    if file is not None:
        with open(file, encoding="utf-8") as stream:
            wanted |= {line.rstrip("\r\n") for line in stream}
    wanted.discard("")
    if not wanted:
        raise UsageError("no user is named: give ids, or a file with one a line by --users")
    return wanted


def _show(done: "Forgotten", root: str, verb: str) -> None:
    import pyarrow as pa

    from r2ec.cli.screen import printable, write_table

    if done.removals:
        columns = {
            "place": [removal.place for removal in done.removals],
            "files": [removal.num_files for removal in done.removals],
            "rows": [removal.num_rows for removal in done.removals],
            "note": [removal.note for removal in done.removals],
        }
        write_table(pa.table(columns))
    click.echo(f"{done.num_rows:,} rows {verb} in {root}")
    unknown = done.unknown_users
    if unknown:
        shown = ", ".join(map(printable, unknown[:SHOWN_USERS]))
        more = f" and {len(unknown) - SHOWN_USERS:,} more" if len(unknown) > SHOWN_USERS else ""
        click.echo(
            f"no row of {len(unknown):,} of the users, forgotten before or never there: {shown}"
            f"{more}. An id is written as in the log, upper and lower case apart"
        )
