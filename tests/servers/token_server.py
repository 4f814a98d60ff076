"""A token server (docker/distribution, spec/auth/token)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.servers.http_server import Connection, HttpServer, Request, start_http_server
from tests.servers.registry import TokenAuth

ISSUER = "tests' token server"
SERVICE = "tests' registry"


@dataclass(frozen=True)
class User:
    """A user who may request tokens. `rights` maps patterns of repository names to actions: {"team/*": {"pull"}}."""

    password: str
    rights: Mapping[str, set[str]] = field(default_factory=dict)

    def allowed(self, repository: str) -> set[str]:
        """Return the actions that the user has on a repository."""
        return {
            action
            for pattern, actions in self.rights.items()
            if fnmatchcase(repository, pattern)
            for action in actions
        }


class TokenServer:
    """Issues tokens for `users`, and for `anonymous` without credentials.

    `lifetime` is the validity of tokens in seconds; a registry accepts them 60 s longer. Both may be
    changed while it runs. `requests` are all requests, `certbundle` is the certificate for its registry.
    """

    def __init__(
        self, http: HttpServer, folder: Path, users: Mapping[str, User], anonymous: User | None
    ) -> None:
        self.users = dict(users)
        self.anonymous = anonymous
        self.lifetime = 300
        self.certbundle = folder / "token-server.pem"
        self._http = http
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certbundle.write_bytes(_certificate(self._key))
        http.on("/token", self._answer)

    @property
    def realm(self) -> str:
        """The URL for token requests, as in a registry's challenge."""
        return f"{self._http.url}/token"

    @property
    def requests(self) -> list[Request]:
        """The requests for tokens so far, granted or not."""
        return self._http.requests_of("/token")

    def registry_auth(self) -> TokenAuth:
        """Return the `token` argument of start_registry for a registry that accepts these tokens."""
        return {
            "realm": self.realm,
            "service": SERVICE,
            "issuer": ISSUER,
            "certbundle": str(self.certbundle),
        }

    def token(
        self, name: str, access: list[dict[str, Any]], *, lifetime: int | None = None, service: str = SERVICE
    ) -> str:
        """Return a signed token for the user `name` (spec/auth/jwt), regardless of rights."""
        now = int(time.time())
        expires = now + (self.lifetime if lifetime is None else lifetime)
        claims = {
            "iss": ISSUER,
            "sub": name,
            "aud": service,
            "exp": expires,
            "nbf": min(now, expires) - 1,
            "iat": now,
            "jti": uuid.uuid4().hex,
            "access": access,
        }
        header = {"typ": "JWT", "alg": "ES256", "kid": _key_id(self._key)}
        signed = f"{_base64url(_compact(header))}.{_base64url(_compact(claims))}"
        der = self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        # JWS requires the two numbers concatenated (RFC 7518, 3.4), not ASN.1.
        signature = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(der))
        return f"{signed}.{_base64url(signature)}"

    def _answer(self, request: Request, connection: Connection) -> None:
        if request.method != "GET":
            # OAuth 2 by POST is optional; engines that try it first continue with GET.
            connection.reply(405)
            return
        name, user = self._who(request)
        if user is None:
            refusal = {
                "errors": [{"code": "UNAUTHORIZED", "message": "wrong user or password", "detail": None}]
            }
            connection.reply(401, _compact(refusal), {"Content-Type": "application/json"})
            return
        scopes = [scope for value in request.query.get("scope", []) for scope in value.split()]
        service = request.query.get("service", [SERVICE])[0]
        token = self.token(name, [_granted(user, scope) for scope in scopes], service=service)
        answer = {
            "token": token,
            "access_token": token,
            "expires_in": self.lifetime,
            "issued_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        }
        connection.reply(200, _compact(answer), {"Content-Type": "application/json"})

    def _who(self, request: Request) -> tuple[str, User | None]:
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return "", self.anonymous
        try:
            name, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", None
        user = self.users.get(name)
        if scheme.lower() != "basic" or user is None or user.password != password:
            return name, None
        return name, user


@contextmanager
def start_token_server(
    folder: Path, users: Mapping[str, User], *, anonymous: User | None = None, host: str = "127.0.0.1"
) -> Iterator[TokenServer]:
    """Run a token server in threads of this process; its certificate goes to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with start_http_server(host=host) as http:
        yield TokenServer(http, folder, users, anonymous)


def _granted(user: User, scope: str) -> dict[str, Any]:
    """Return the granted part of a scope `repository:<name>:<actions>`: fewer actions or none, but no refusal."""
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    allowed = user.allowed(name if kind == "repository" else kind)
    return {"type": kind, "name": name, "actions": sorted(set(actions.split(",")) & allowed)}


def _certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ISSUER)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_id(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the key id of libtrust: 240 bits of the key's SHA-256 in base 32, in groups of four."""
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    letters = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return ":".join(letters[start : start + 4] for start in range(0, len(letters), 4))


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
