"""`doctor`: whether this machine has what the pipeline needs."""

import click

from r2ec.cli.options import warehouse_option


@click.command(epilog="Example: r2ec-cli doctor --warehouse warehouse")
@warehouse_option
def doctor(warehouse: str) -> None:
    """Versions, Java, devices, paths and permissions.

    Says what is missing and how to get it. Exit code 3 when something that is needed is missing.
    """
    from r2ec.cli.checks import all_checks
    from r2ec.cli.doctor_page import print_checks
    from r2ec.errors import NotReadyError

    missing = print_checks(all_checks(warehouse))
    if missing:
        raise NotReadyError(f"missing: {', '.join(missing)} (see above)")
    click.echo("Nothing that is needed is missing.")
