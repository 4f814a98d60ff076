"""What whoever judges callers has to offer: the registry alone, or Blackbox before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from core.digest import Digest
from core.errors import DockerTorrentsError


class AccessDenied(DockerTorrentsError):
    """This caller does not get this, or nobody can tell now whether he may.

    `status` is the HTTP status to answer, `headers` go with it (a challenge, say), `code` and `message`
    stand in the registry's JSON for errors. None of them holds a token.
    """

    def __init__(self, status: int, headers: tuple[tuple[str, str], ...], code: str, message: str) -> None:
        self.status = status
        self.headers = headers
        self.code = code
        self.message = message
        super().__init__(f"{status} {code}: {message}")


class Access(Protocol):
    """Judges callers. Methods may be called from several threads at once."""

    def admit(self, headers: Mapping[str, str]) -> None:
        """Let the request with these headers in to ask the registry, or raise AccessDenied.

        `headers` finds `Authorization` and `X-Real-IP` by these names. Who is let in still has to
        convince the registry.
        """
        ...

    def may_pull(self, scope: str, digest: Digest, authorization: str | None) -> None:
        """Return if the registry lets the holder of `authorization` pull this blob from this repository.

        Raises AccessDenied with the registry's status and challenge if it does not, or does not have
        the blob there; RegistryError if it cannot be asked.
        """
        ...
