"""The Range, If-Range and If-None-Match headers of a request (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

# One range of bytes, with the empty list elements and blanks that RFC 9110 (5.6.1) allows.
_ONE_RANGE = re.compile(r"bytes=[ \t,]*([0-9]*)-([0-9]*)[ \t,]*\Z", re.IGNORECASE)

# No blob is that long; it avoids numbers of thousands of digits.
_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes from `start` on; never empty."""

    start: int
    length: int

    def content_range(self, size: int) -> str:
        """Return the Content-Range header of a 206 for a blob of `size` bytes (RFC 9110, 14.4)."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


def requested_span(header: str | None, size: int) -> Span | Literal["whole", "unsatisfiable"]:
    """Parse `header`, the value of Range, for a blob of `size` bytes.

    "whole" is answered with 200 and everything: the header is absent or malformed, its unit is not bytes,
    or it has several ranges; a server may ignore all of these (RFC 9110, 14.2). "unsatisfiable"
    is answered with 416.
    """
    matched = _ONE_RANGE.match(header) if header else None
    if matched is None:
        return "whole"
    first, last = matched.groups()
    if first:
        start = _number(first)
        end = _number(last) if last else size - 1
        if end < start and last:
            return "whole"  # not a range at all
        if start >= size:
            return "unsatisfiable"
        return Span(start, min(end, size - 1) - start + 1)
    if not last:
        return "whole"
    suffix = _number(last)
    if suffix == 0:
        return "unsatisfiable"
    if size == 0:
        return "whole"  # Content-Range cannot describe an empty range
    return Span(max(0, size - suffix), min(suffix, size))


def applicable_range(header: str | None, if_range: str | None, etag: str) -> str | None:
    """Return `header`, the value of Range, None if If-Range excludes it (RFC 9110, 13.1.5).

    The comparison with `etag` is strong. A date never matches: blobs have no Last-Modified.
    """
    return header if if_range is None or if_range.strip() == etag else None


def unsatisfied_range(size: int) -> tuple[str, str]:
    """Return the Content-Range header of a 416 for a blob of `size` bytes (RFC 9110, 14.4)."""
    return "Content-Range", f"bytes */{size}"


def etag_matches(if_none_match: str | None, etag: str) -> bool:
    """Return whether If-None-Match contains `etag`, so that the answer is 304.

    The comparison is weak (RFC 9110, 13.1.2), quoted or not, as in docker/distribution.
    """
    named = [one.strip().removeprefix("W/").strip('"') for one in (if_none_match or "").split(",")]
    return named == ["*"] or etag.strip('"') in named


def _number(digits: str) -> int:
    significant = digits.lstrip("0")
    return int(significant[:_MAX_DIGITS] or "0") if len(significant) <= _MAX_DIGITS else 10**_MAX_DIGITS
