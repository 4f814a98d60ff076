"""A platform, `os/arch[/variant]`, as manifest lists and image indexes name them (OCI image-index.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.errors import InvalidName

# As containerd has it (platforms/database.go): other names, and variants that go without saying.
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
    """`variant` is empty where none is named."""

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
        """The same platform by the one name that containerd has for it: `linux/arm64/v8` is `linux/arm64`."""
        architecture = _ARCHITECTURES.get(self.architecture, self.architecture)
        variant = _VARIANTS.get((architecture, self.variant), self.variant)
        return Platform(self.os, architecture, variant)

    def takes(self, other: Platform) -> bool:
        """Whether an image for `other` is one for this platform: an unnamed variant takes any."""
        wanted, offered = self.normal, other.normal
        return (wanted.os, wanted.architecture) == (offered.os, offered.architecture) and (
            not self.variant or wanted.variant == offered.variant
        )

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)
