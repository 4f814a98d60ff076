"""Headers of an answer: case-insensitive names, values in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


class Headers:
    """Header lines as (name, value) pairs; a name may occur in several of them."""

    __slots__ = ("_pairs", "_values")

    def __init__(self, pairs: Sequence[tuple[str, str]] = ()) -> None:
        self._pairs = tuple(pairs)
        self._values: dict[str, list[str]] = {}
        for name, value in self._pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def all(self, name: str) -> list[str]:
        """Return the values of all lines of that name."""
        return list(self._values.get(name.lower(), ()))

    def get(self, name: str) -> str | None:
        """Return the value of that name, several joined with commas (RFC 9110, 5.3), or None."""
        values = self._values.get(name.lower())
        return ", ".join(values) if values else None

    def number(self, name: str) -> int | None:
        """Return the value as a number if it has at most 18 digits, as lengths do; otherwise None."""
        value = self.get(name)
        return int(value) if value and value.isascii() and value.isdigit() and len(value) <= 18 else None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __repr__(self) -> str:
        # Values may be tokens or signed URLs.
        return f"Headers({', '.join(name for name, _ in self._pairs)})"
