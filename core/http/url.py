"""A parsed URL, which can be shown without its secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote, urljoin, urlsplit

from core.errors import BadAnswer

DEFAULT_PORTS = {"http": 80, "https": 443}
Origin = tuple[str, str, int]
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}\Z|[0-9A-Fa-f:.]{2,45}\Z")
_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")
_CAPABILITY = re.compile(r"(/v0/(?:layers|swarm)/)[^/]+(?=/)")
_URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"
MAX_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a request. `host` is without brackets, `path` with the query and never empty.

    `str()` is for logs and errors: without query, which may have signatures, without user information, and
    without the capability in the path of web seeds and swarm calls.
    """

    scheme: str
    host: str
    port: int
    path: str = field(repr=False)

    @property
    def origin(self) -> Origin:
        """Scheme, host and port (RFC 6454): credentials for one origin are not for another."""
        return self.scheme, self.host, self.port

    @property
    def netloc(self) -> str:
        """Host and port as in a URL and in `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole URL, with the query."""
        return self._base() + self.path

    def join(self, location: str) -> Target:
        """Resolve a Location or Link in an answer of this target.

        Raises BadAnswer if it is invalid, or neither http nor https.
        """
        # Headers are decoded as Latin-1: encode again, and escape bytes that are not allowed in a URL.
        escaped = quote(location.strip().encode("latin-1", "replace"), safe=_URL_CHARACTERS)
        try:
            return parse_url(urljoin(self.url, escaped))
        except ValueError as error:
            raise BadAnswer(str(self), f"redirects to an invalid URL: {error}") from None

    def _base(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    def __str__(self) -> str:
        shown = self._base() + _CAPABILITY.sub(r"\1...", self.path.partition("?")[0])
        return shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 3] + "..."


def parse_url(url: str) -> Target:
    """Parse `url`, without its fragment and user information.

    Raises ValueError, which does not show the URL, as it may contain secrets.
    """
    # Queries may have tokens and signatures: they are not cached.
    return _parse(url) if "?" in url else _parse_kept(url)


def target_of(url: str, where: str = "request") -> Target:
    """Return the target of a URL. Raises BadAnswer, which names its source `where`, for an invalid one."""
    try:
        return parse_url(url)
    except ValueError as error:
        raise BadAnswer(where, f"invalid URL: {error}") from None


def _parse(url: str) -> Target:
    if _NOT_PRINTABLE.search(url):
        raise ValueError("it has characters that are not allowed in a URL")
    parts = urlsplit(url)
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError("neither http nor https")
    if not parts.hostname or not _HOST.match(parts.hostname):
        raise ValueError("it has no usable host")
    try:
        port = DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
    except ValueError:
        # Its text may show the beginning of a password.
        port = 0
    if port == 0:
        raise ValueError("its port is not a number from 1 to 65535")
    path = parts.path or "/"
    return Target(parts.scheme, parts.hostname, port, f"{path}?{parts.query}" if parts.query else path)


_parse_kept = lru_cache(maxsize=1024)(_parse)
