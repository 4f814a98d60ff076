"""A platform, `os/arch[/variant]`, as in manifest lists and image indexes (OCI image-index.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.errors import InvalidName

# As in containerd (platforms/database.go): aliases, and default variants.
_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386"}
_VARIANTS = {
    ("amd64", "v1"): "",
    ("arm64", "8"): "",
    ("arm64", "v8"): "",
    ("arm", ""): "v7",
    **{("arm", number): f"v{number}" for number in "5678"},
}
_PART = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}\Z")


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform. `variant` may be empty."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: object) -> Platform:
        """Parse `os/architecture[/variant]`. Raises InvalidName."""
        parts = text.split("/") if isinstance(text, str) else []
        if len(parts) not in (2, 3) or not all(_PART.match(part) for part in parts):
            raise InvalidName("platform", text, "expected os/arch or os/arch/variant")
        return cls(*parts)

    @property
    def normal(self) -> Platform:
        """The normalised name of containerd: `linux/arm64/v8` is `linux/arm64`."""
        architecture = _ARCHITECTURES.get(self.architecture, self.architecture)
        variant = _VARIANTS.get((architecture, self.variant), self.variant)
        return Platform(self.os, architecture, variant)

    def takes(self, other: Platform) -> bool:
        """Return whether an image for `other` is one for this platform: an empty variant matches any."""
        wanted, offered = self.normal, other.normal
        return (wanted.os, wanted.architecture) == (offered.os, offered.architecture) and (
            not self.variant or wanted.variant == offered.variant
        )

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)
