"""What an API server's refusal means, and what to do about it, in one line."""

import json
import re
from typing import Any

from r2ec.errors import R2ecError

REMEDIES = {
    400: "mend the field that the message names",
    401: "the token is missing or expired: log in again, or renew the kubeconfig",
    403: "your account may not do this, or a policy of the namespace forbids it: ask its "
    "administrator for a role, or mend what the message names",
    404: "look with r2ec-cli k8s status; a namespace is set up by r2ec-cli k8s submit setup",
    409: "another manager set the field: take over with --force-conflicts, or leave it out; where "
    "the object is being deleted, wait a moment",
    422: "mend the field; what cannot be changed on a Job needs r2ec-cli k8s delete first, "
    "--replace, or another run name",
}
# Go's way of printing a value runs over pages: spec.template: Invalid value: core.Pod…{…}.
_GO_VALUE = re.compile(r"(Invalid value: ).{80,}(: )", re.DOTALL)


class RefusedError(R2ecError):
    """The server refused a request, with HTTP status `status`."""

    def __init__(self, what: str, status: int, body: str, reason: str) -> None:
        self.status = status
        remedy = REMEDIES.get(status, "see the message")
        super().__init__(f"{what}: {describe(body, reason)} ({status}); {remedy}")


class UnreachableError(R2ecError):
    """No answer, or one that says to try again later."""


def describe(body: str, reason: str) -> str:
    """The server's message; where it names fields, these with what is wrong with each."""
    try:
        status = json.loads(body or "{}")
    except ValueError:
        return reason or body
    if not isinstance(status, dict):
        return reason or body
    causes: list[dict[str, Any]] = (status.get("details") or {}).get("causes") or []
    fields = [
        f"{cause['field'].lstrip('.')}: {_shorten(str(cause.get('message', '')))}"
        for cause in causes
        if cause.get("field")
    ]
    if fields:
        return "; ".join(dict.fromkeys(fields))
    return _shorten(str(status.get("message") or reason))


def _shorten(message: str) -> str:
    return _GO_VALUE.sub(r"\1…\2", message)
