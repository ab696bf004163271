"""The errors a person may cause, each with the exit code of the commands that meet it.

The outermost function of a command or job prints `error: <message>` without a traceback and exits
with `exit_code`. A message names the value, where it came from and what to do.
"""


class R2ecError(Exception):
    """Something failed (exit code 1)."""

    exit_code = 1


class UsageError(R2ecError, ValueError):
    """A wrong option, column name or configuration value (exit code 2)."""

    exit_code = 2


class NotReadyError(R2ecError):
    """An input is not there yet: a file, table, date, model or embeddings (exit code 3)."""

    exit_code = 3


class StoppedError(R2ecError):
    """Told to stop from outside (SIGTERM); what is done is kept, run again (exit code 75)."""

    exit_code = 75


class LostPeerError(R2ecError):
    """Another process of the run is gone or silent; what is kept is whole (exit code 75)."""

    exit_code = 75


class GateError(R2ecError):
    """A quality gate failed: an audit, the quarantine share, the error share (exit code 4)."""

    exit_code = 4
