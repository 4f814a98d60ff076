"""A capability: permission to read one layer for a limited time, as one element of a URL's path.

Torrent clients send no custom headers, and some drop query strings, so the permission is part of the path. A
capability is the expiry (Unix seconds, 8 bytes, big-endian), the scope in UTF-8 and an HMAC-SHA256 (RFC 2104)
over these, the purpose and the layer, all in URL-safe base64 without padding (RFC 4648, 5). It is not
encrypted, but cannot be created or changed without the secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

from core.digest import Digest
from core.errors import CapabilityInvalid, InvalidName
from core.names import MAX_SCOPE, parse_scope

# Part of the signed message, so that a token for another purpose or version is invalid here.
_PURPOSE = b"docker-torrents layer 1"
_EXPIRY_BYTES = 8
_MAC_BYTES = 32
_MAX_CHARS = (_EXPIRY_BYTES + MAX_SCOPE + _MAC_BYTES) * 4 // 3 + 4


@dataclass(frozen=True, slots=True)
class Capability:
    """A valid capability: access to the layer in the repository `scope`, until `expires`."""

    scope: str
    expires: int


def mint(secret: bytes, digest: Digest, scope: str, expires: int) -> str:
    """Return a capability to read `digest` from `scope` until `expires`, in Unix seconds."""
    grant = expires.to_bytes(_EXPIRY_BYTES, "big") + scope.encode()
    return base64.urlsafe_b64encode(grant + _mac(secret, digest, grant)).decode().rstrip("=")


def verify(secret: bytes, token: str, digest: Digest, now: float) -> Capability:
    """Verify `token` for `digest` at `now`, in Unix seconds.

    Raises CapabilityInvalid if it was not created with this secret for this layer, was modified, or has
    expired.
    """
    if len(token) > _MAX_CHARS:
        raise CapabilityInvalid("too long")
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise CapabilityInvalid("malformed") from None
    # The decoder ignores the spare bits of the last digit: a token must have one encoding.
    if base64.urlsafe_b64encode(raw).decode().rstrip("=") != token or len(raw) < _EXPIRY_BYTES + _MAC_BYTES:
        raise CapabilityInvalid("malformed")
    grant, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(secret, digest, grant)):
        raise CapabilityInvalid("not valid for this layer")
    expires = int.from_bytes(grant[:_EXPIRY_BYTES], "big")
    if now >= expires:
        raise CapabilityInvalid("expired")
    try:
        scope = parse_scope(grant[_EXPIRY_BYTES:].decode())
    except (UnicodeDecodeError, InvalidName):
        raise CapabilityInvalid("for no scope") from None
    return Capability(scope, expires)


def _mac(secret: bytes, digest: Digest, grant: bytes) -> bytes:
    # Every part but the last has a fixed length: different grants give different messages.
    message = _PURPOSE + bytes.fromhex(digest.hex) + grant
    return hmac.new(secret, message, hashlib.sha256).digest()
