"""Paginated lists of a registry (OCI distribution-spec, content discovery; RFC 8288)."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

from core.errors import BadAnswer, InvalidName, Refused
from core.http.client import HttpAnswer
from core.http.url import Target

log = logging.getLogger(__name__)

PAGE_LIMIT = 64 * 1024 * 1024
"""Bytes of one page: registry 2.8 returns all tags in one, even a million."""

PAGE_ENTRIES = 1000
"""Entries to request: distribution 3 allows no more by default."""

MAX_PAGES = 10_000
_MAX_LINK_LENGTH = 16 * 1024

_LINK = re.compile(r"[\s,]*<([^<>]*)>((?:[^,\"<>]|\"[^\"]*\")*)")
_NEXT = re.compile(r";\s*rel\s*=\s*(?:\"(?:[^\"]*\s)?next(?:\s[^\"]*)?\"|next\s*(?:;|\Z))", re.IGNORECASE)


def read_pages(
    url: str,
    fetch: Callable[[str], HttpAnswer],
    key: str,
    parse: Callable[[object], str],
    *,
    complete: bool = False,
) -> Iterator[str]:
    """Yield the names in the list `key` of each page, starting at `url`, with one page in memory.

    Names that `parse` refuses are left out and logged; with `complete` they are a BadAnswer. Raises BadAnswer
    if it cannot continue: ending early would present a part of the list as the whole.
    """
    seen: set[str] = set()
    for _ in range(MAX_PAGES):
        answer = _fetch_page(url, fetch, first=not seen)
        yield from _names(answer, key, parse, complete)
        seen.add(answer.target.path)
        next_page = _next_page(answer)
        if next_page is None:
            return
        if next_page.path in seen:
            raise BadAnswer(str(next_page), "its pages lead back to one that was read before")
        url = next_page.url
    raise BadAnswer(url.partition("?")[0], f"more than {MAX_PAGES} pages")


def _fetch_page(url: str, fetch: Callable[[str], HttpAnswer], *, first: bool) -> HttpAnswer:
    if not first:
        return fetch(url)
    separator = "&" if "?" in url else "?"
    try:
        return fetch(f"{url}{separator}n={PAGE_ENTRIES}")
    except Refused as error:
        if error.status != 400:
            raise
        # Its limit is lower (PAGINATION_NUMBER_INVALID): let it choose.
        return fetch(url)


def _names(answer: HttpAnswer, key: str, parse: Callable[[object], str], complete: bool) -> Iterator[str]:
    entries = _load(answer, key)
    bad: list[InvalidName] = []
    for entry in entries:
        try:
            yield parse(entry)
        except InvalidName as error:
            if complete:
                raise BadAnswer(str(answer.target), str(error)) from None
            bad.append(error)
    if bad:
        log.warning(
            "invalid names in a list ignored url=%s number=%d first=%s", answer.target, len(bad), bad[0]
        )


def _load(answer: HttpAnswer, key: str) -> list[Any]:
    where = str(answer.target)
    try:
        page = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise BadAnswer(where, "its list is not JSON") from None
    # `null` is how distribution writes an empty list.
    entries = page.get(key, 0) if isinstance(page, dict) else 0
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise BadAnswer(where, f"its list has no {key}")
    return entries


def _next_page(answer: HttpAnswer) -> Target | None:
    """Return the target of the Link with rel="next", or None."""
    value = answer.headers.get("Link")
    if value is None:
        return None
    where = answer.target
    if len(value) > _MAX_LINK_LENGTH:
        raise BadAnswer(str(where), f"a Link of {len(value)} characters")
    position = 0
    while link := _LINK.match(value, position):
        if _NEXT.search(link[2]):
            return _same_registry(where, link[1])
        position = link.end()
    if value[position:].strip(" \t,"):
        raise BadAnswer(str(where), "its Link to the next page cannot be read")
    return None


def _same_registry(where: Target, link: str) -> Target:
    """Return the linked page. Only the path of an absolute link counts: proxies get scheme and port wrong."""
    try:
        next_page = where.join(link)
    except BadAnswer as error:
        raise BadAnswer(str(where), error.why) from None
    if next_page.host.lower() != where.host.lower():
        raise BadAnswer(str(where), f"its next page is on another host, {next_page.host}")
    return Target(where.scheme, where.host, where.port, next_page.path)
