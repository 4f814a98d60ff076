"""The part of a file that is ours, between two comments: the rest is another's and stays as it was."""

from __future__ import annotations

from core.errors import EngineConfigInvalid

BEGIN = "# begin docker_torrents: written by `docker_torrents mirror configure`"
END = "# end docker_torrents"


def block(lines: list[str], indent: str = "") -> list[str]:
    """Put lines between the comments."""
    return [indent + line for line in (BEGIN, *lines, END)]


def without_block(text: str) -> str:
    """Return the text without our part. Raises EngineConfigInvalid if only one of the comments is there."""
    lines = text.splitlines(keepends=True)
    begins = [number for number, line in enumerate(lines) if line.strip() == BEGIN]
    ends = [number for number, line in enumerate(lines) if line.strip() == END]
    if not begins and not ends:
        return text
    if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
        raise EngineConfigInvalid(f"the lines {BEGIN!r} and {END!r} do not match: remove this part by hand")
    return "".join(lines[: begins[0]] + lines[ends[0] + 1 :])


def insert(text: str, line_number: int, lines: list[str]) -> str:
    """Insert lines before the line of that number, counted from 0."""
    before = text.splitlines(keepends=True)
    if before and not before[-1].endswith("\n"):
        before[-1] += "\n"
    return "".join(before[:line_number] + [line + "\n" for line in lines] + before[line_number:])
