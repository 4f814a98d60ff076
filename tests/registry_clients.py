"""Registry clients for the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core.config.config import DockerRegistry
from core.http.client import HttpClient
from core.http.ranged import BlobStream
from core.registry.client import RegistryClient

SILENCE_SECONDS = 2.0
"""The read time-out where a server is silent; elsewhere it is ample, as the machine may be busy."""


@contextmanager
def client_of(
    netloc: str,
    user: str | None = None,
    password: str | None = None,
    *,
    read_timeout: float = 60.0,
    **settings: Any,
) -> Iterator[RegistryClient]:
    """Yield a client of the registry at `host:port`, over plain HTTP; `settings` are those of the section."""
    section = DockerRegistry(host=netloc, **{"proto": "http", **settings})
    with HttpClient(connect_timeout=1, read_timeout=read_timeout) as http:
        yield RegistryClient(section, http, user, password)


def read_blob(stream: BlobStream) -> bytes:
    """Return the rest of the stream, and close it."""
    buffer = memoryview(bytearray(1 << 16))
    body = bytearray()
    with stream:
        while count := stream.readinto(buffer):
            body += buffer[:count]
    return bytes(body)
