"""A platform, `os/arch[/variant]`, as manifest lists and image indexes name them (OCI image-index.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.errors import InvalidName

_PART = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}\Z")


@dataclass(frozen=True, slots=True)
class Platform:
    """`variant` is empty where none is named."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: object) -> Platform:
        """The platform that `text` names; raises InvalidName if it is none."""
        parts = text.split("/") if isinstance(text, str) else []
        if len(parts) not in (2, 3) or not all(_PART.match(part) for part in parts):
            raise InvalidName("platform", text, "expected os/arch or os/arch/variant")
        return cls(*parts)

    def takes(self, other: Platform) -> bool:
        """Whether an image for `other` is one for this platform: an unnamed variant takes any."""
        return (self.os, self.architecture) == (other.os, other.architecture) and (
            not self.variant or self.variant == other.variant
        )

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)
