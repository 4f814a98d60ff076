"""Why something failed, as the database keeps it."""

from __future__ import annotations

_LONGEST = 500


def one_line(reason: str) -> str:
    """`reason` as one line of at most 500 characters, all of which a database can store."""
    text = " ".join(reason.encode("utf-8", "replace").decode().replace("\0", " ").split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
