"""Logins that `docker login` and `podman login` stored for this user, in files or credential helpers."""

from __future__ import annotations

import base64
import binascii
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import ConfigInvalid

_HELPER = re.compile(r"[A-Za-z0-9_.-]+")
_HELPER_SECONDS = 30.0
_NOT_FOUND = "credentials not found in native keychain"
_IDENTITY_TOKEN = "<token>"  # noqa: S105 - the user name that stands for one


@dataclass(frozen=True, slots=True)
class Login:
    """A user and the password."""

    user: str
    password: str = field(repr=False)


def find_login(registry: str, environ: Mapping[str, str], home: Path) -> Login | None:
    """Return the login for `registry` (`host` or `host:port`) from the first file that has one.

    Raises ConfigInvalid if a file is malformed, or names a credential helper that fails.
    """
    for path in _files(environ, home):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        found = _find(content, str(path), registry, environ)
        if found is not None:
            return found
    return None


def _files(environ: Mapping[str, str], home: Path) -> Iterator[Path]:
    """Return the files that podman (containers-auth.json(5)) and docker read, in this order."""
    if "REGISTRY_AUTH_FILE" in environ:
        yield Path(environ["REGISTRY_AUTH_FILE"])
    if "XDG_RUNTIME_DIR" in environ:
        yield Path(environ["XDG_RUNTIME_DIR"]) / "containers/auth.json"
    yield home / ".config/containers/auth.json"
    yield Path(environ.get("DOCKER_CONFIG", home / ".docker")) / "config.json"


def _find(data: bytes, where: str, registry: str, environ: Mapping[str, str]) -> Login | None:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise ConfigInvalid(where, ["not JSON"]) from None
    if not isinstance(content, dict):
        return None
    helpers, logins = content.get("credHelpers") or {}, content.get("auths") or {}
    if not (isinstance(helpers, dict) and isinstance(logins, dict)):
        raise ConfigInvalid(where, ["expected mappings in auths and credHelpers"])
    if registry in helpers:
        return _from_helper(str(helpers[registry]), where, registry, environ)
    for name, entry in logins.items():
        if _host(name) == registry and isinstance(entry, dict) and entry.get("auth"):
            return _decode(entry["auth"], where, registry)
    if store := content.get("credsStore"):
        return _from_helper(str(store), where, registry, environ)
    if any(_host(name) == registry for name in logins):
        raise ConfigInvalid(
            where, [f"the login for {registry} is in neither this file nor a credential helper"]
        )
    return None


def _decode(encoded: Any, where: str, registry: str) -> Login:
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError, TypeError):
        user = colon = password = ""
    if not colon:
        raise ConfigInvalid(where, [f"the login for {registry} cannot be read"])
    return Login(user, password)


def _from_helper(name: str, where: str, registry: str, environ: Mapping[str, str]) -> Login | None:
    """Get the login from `docker-credential-<name>` (github.com/docker/docker-credential-helpers)."""
    helper = f"docker-credential-{name}"
    program = shutil.which(helper, path=environ.get("PATH")) if _HELPER.fullmatch(name) else None
    if program is None:
        raise ConfigInvalid(where, [f"the credential helper {helper} is not in PATH: install it"])
    try:
        ended = subprocess.run(  # noqa: S603 - the user's own helper, without a shell
            [program, "get"],
            input=registry,
            capture_output=True,
            text=True,
            timeout=_HELPER_SECONDS,
            env=dict(environ),
            check=False,
        )
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired) as error:
        raise ConfigInvalid(where, [f"{helper} failed: {type(error).__name__}"]) from None
    if ended.returncode != 0:
        if _NOT_FOUND in ended.stdout + ended.stderr:
            return None
        raise ConfigInvalid(where, [f"{helper} ended with status {ended.returncode}"])
    try:
        answer = json.loads(ended.stdout)
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, LookupError, TypeError):
        raise ConfigInvalid(where, [f"{helper} returned no login for {registry}"]) from None
    if user == _IDENTITY_TOKEN:
        raise ConfigInvalid(
            where,
            [f"{helper} stores an identity token for {registry}: log in with a password or access token"],
        )
    return Login(str(user), str(secret))


def _host(name: str) -> str:
    """Return `registry.example.com` for `https://registry.example.com/v1/`."""
    return name.rpartition("://")[2].partition("/")[0]
