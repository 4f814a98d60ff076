"""Our part of a file, between two comments; the rest is not changed."""

from __future__ import annotations

from core.errors import EngineConfigInvalid

BEGIN = "# begin docker_torrents: written by `docker_torrents mirror configure`"
END = "# end docker_torrents"


def block(lines: list[str], indent: str = "") -> list[str]:
    """Put lines between the comments."""
    return [indent + line for line in (BEGIN, *lines, END)]


def without_block(text: str) -> str:
    """Return the text without our part. Raises EngineConfigInvalid if only one of the comments exists."""
    lines = text.splitlines(keepends=True)
    begins = [number for number, line in enumerate(lines) if line.strip() == BEGIN]
    ends = [number for number, line in enumerate(lines) if line.strip() == END]
    if not begins and not ends:
        return text
    if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
        raise EngineConfigInvalid(f"the lines {BEGIN!r} and {END!r} do not match: remove this part by hand")
    before, after = "".join(lines[: begins[0]]), "".join(lines[ends[0] + 1 :])
    if not lines[ends[0]].endswith("\n"):
        before = before.removesuffix("\n")
    return before + after


def insert(text: str, line_number: int, lines: list[str]) -> str:
    """Insert lines before the line of that number, counted from 0.

    A text whose last line has no line break still has none, so that `without_block` restores it to the byte.
    """
    others = text.splitlines(keepends=True)
    before, after = "".join(others[:line_number]), "".join(others[line_number:])
    ours = "".join(line + "\n" for line in lines)
    if before and not before.endswith("\n"):
        return before + "\n" + ours.removesuffix("\n")
    return before + ours + after
