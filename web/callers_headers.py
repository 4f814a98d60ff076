"""A request's headers as the server read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

_PREFIX = "HTTP_"


@lru_cache(maxsize=64)
def _key(name: str) -> str:
    return _PREFIX + name.upper().replace("-", "_")


class CallersHeaders(Mapping[str, str]):
    """Finds headers whatever their case, in what a WSGI server says of a request (PEP 3333).

    Values are bytes read as Latin-1. Bottle's own view takes them for UTF-8 and fails where they are not.
    """

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        value: str = self._environ[_key(name)]
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or `default`. The inherited way, by an exception, takes several times as long."""
        return self._environ.get(_key(name), default)

    def __iter__(self) -> Iterator[str]:
        for key in self._environ:
            if key.startswith(_PREFIX):
                yield key.removeprefix(_PREFIX).replace("_", "-").title()

    def __len__(self) -> int:
        return sum(1 for _ in self)
