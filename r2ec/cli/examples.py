"""Examples in help texts, as they can be copied from a terminal of 80 columns."""

import textwrap

PREFIX = "Example: "
LINE = 72


def copyable(epilog: str | None) -> str | None:
    """`Example: COMMAND` with the command on lines of its own, which no terminal breaks up.

    A long one goes on after a backslash. Anything else is given back as it is.
    """
    if epilog is None or not epilog.startswith(PREFIX):
        return epilog
    lines = textwrap.wrap(
        epilog.removeprefix(PREFIX), LINE, break_long_words=False, break_on_hyphens=False
    )
    # \b keeps click from filling the paragraph.
    return "\b\nExample:\n  " + " \\\n    ".join(lines)
