"""Logins that `docker login` and `podman login` have kept for this user."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import ConfigInvalid


@dataclass(frozen=True, slots=True)
class Login:
    """A user and the password."""

    user: str
    password: str = field(repr=False)


def find_login(registry: str, environ: Mapping[str, str], home: Path) -> Login | None:
    """The login for `registry` (`host` or `host:port`) in the first file that has one.

    Raises ConfigInvalid if a file is malformed, or keeps the login in a credential helper.
    """
    for path in _files(environ, home):
        try:
            text = path.read_text(encoding="utf-8")
        except OSError:
            continue
        found = _find(text, str(path), registry)
        if found is not None:
            return found
    return None


def _files(environ: Mapping[str, str], home: Path) -> Iterator[Path]:
    """Where podman (containers-auth.json(5)) and docker look, in this order."""
    if "REGISTRY_AUTH_FILE" in environ:
        yield Path(environ["REGISTRY_AUTH_FILE"])
    if "XDG_RUNTIME_DIR" in environ:
        yield Path(environ["XDG_RUNTIME_DIR"]) / "containers/auth.json"
    yield home / ".config/containers/auth.json"
    yield Path(environ.get("DOCKER_CONFIG", home / ".docker")) / "config.json"


def _find(text: str, where: str, registry: str) -> Login | None:
    try:
        content = json.loads(text)
    except ValueError:
        raise ConfigInvalid(where, ["not JSON"]) from None
    logins: dict[str, Any] = content.get("auths") or {} if isinstance(content, dict) else {}
    for name, entry in logins.items():
        if _host(name) != registry:
            continue
        encoded = entry.get("auth") if isinstance(entry, dict) else None
        if not encoded:
            raise ConfigInvalid(where, [f"the login for {registry} is in a credential helper: not supported"])
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, TypeError):
            user = colon = password = ""
        if not colon:
            raise ConfigInvalid(where, [f"the login for {registry} cannot be read"])
        return Login(user, password)
    return None


def _host(name: str) -> str:
    """`registry.example.com` of `https://registry.example.com/v1/`."""
    return name.rpartition("://")[2].partition("/")[0]
