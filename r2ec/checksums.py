"""Digests of files, as `sha256sum` and the like print them."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from r2ec.errors import UsageError

ALGORITHM_OF_LENGTH = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


@dataclass(frozen=True, slots=True)
class Checksum:
    """A digest that a file must have, in lower case, and how it is computed."""

    algorithm: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> "Checksum":
        """`HEX` or `sha256:HEX`; UsageError for anything else. The length tells the algorithm."""
        name, _, digest = text.strip().lower().rpartition(":")
        known = ALGORITHM_OF_LENGTH.get(len(digest))
        if known is None or name not in ("", known) or not re.fullmatch(r"[0-9a-f]+", digest):
            raise UsageError(
                f"{text!r} is no checksum: give the hex digits of an MD5, SHA-1, SHA-256 or "
                "SHA-512, as sha256sum prints them"
            )
        return cls(known, digest)

    def of(self, path: Path) -> "Checksum":
        """What the file's bytes give by the same algorithm."""
        with path.open("rb") as file:
            return Checksum(self.algorithm, hashlib.file_digest(file, self.algorithm).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"
