"""A content digest, `sha256:` and 64 hex digits (OCI image-spec, descriptor.md#digests)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from core.errors import InvalidName

_HEX = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 digest. `hex` is 64 lower-case hex digits; `str()` gives `sha256:<hex>`.

    Only SHA-256 is supported: the registry uses no other for layers, and the torrent's name is the bare hex
    digest.
    """

    PREFIX: ClassVar[str] = "sha256:"

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.match(self.hex):
            raise InvalidName("digest", self.hex, "expected 64 lower-case hex digits")

    @classmethod
    def parse(cls, text: object) -> Digest:
        """Parse `sha256:<hex>`. Raises InvalidName."""
        if not isinstance(text, str) or not text.startswith(cls.PREFIX):
            raise InvalidName("digest", text, "expected sha256: and 64 hex digits")
        hex_digits = text[len(cls.PREFIX) :]
        if not _HEX.match(hex_digits):
            raise InvalidName("digest", text, "expected sha256: and 64 hex digits")
        return cls(hex_digits)

    @classmethod
    def parse_or_none(cls, text: object) -> Digest | None:
        """Parse `sha256:<hex>`. Return None for anything else."""
        try:
            return cls.parse(text)
        except InvalidName:
            return None

    @property
    def short(self) -> str:
        """The first two hex digits, the folder in which a registry's storage keeps the blob."""
        return self.hex[:2]

    def __str__(self) -> str:
        return self.PREFIX + self.hex
