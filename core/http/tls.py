"""The certificates that every TLS connection trusts: the system's store, and `tls.ca_file`."""

from __future__ import annotations

import os
import re
import socket
import ssl
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from core.errors import ConfigInvalid
from core.http.failures import FAILURES, as_remote_error
from core.http.url import Target

# Where systems keep all their certificates in one file: Debian and Alpine, Red Hat, SUSE, others.
_SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@lru_cache(maxsize=1)
def system_store() -> str:
    """Return the file with the system's certificates, or that of requests if the system has none.

    Environment variables do not change it: SSL_CERT_FILE, REQUESTS_CA_BUNDLE and AWS_CA_BUNDLE are ignored.
    """
    compiled_in = ssl.get_default_verify_paths().openssl_cafile
    for file in (*_SYSTEM_FILES, compiled_in):
        if os.path.isfile(file):
            return file
    return DEFAULT_CA_BUNDLE_PATH


@lru_cache(maxsize=16)
def trusted_bundle(ca_file: Path | None) -> str:
    """Return a file with the system's certificates and those of `ca_file`. Raises ConfigInvalid.

    Together they are a temporary file without a name, which ends with this process, also by SIGKILL.
    """
    if ca_file is None:
        return system_store()
    try:
        own = ca_file.read_text("ascii", "replace")
        ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:
        # ssl.SSLError is one.
        why = error.strerror or str(error)
        raise ConfigInvalid("tls.ca_file", [f"{ca_file} cannot be used: {why}"]) from error
    certificates = _CERTIFICATE.findall(own)
    if not certificates:
        raise ConfigInvalid("tls.ca_file", [f"{ca_file} holds no certificate in PEM"])
    system = Path(system_store()).read_text("ascii", "replace")
    with tempfile.TemporaryFile("w", encoding="ascii") as bundle:
        bundle.write("\n".join([*_CERTIFICATE.findall(system), *certificates, ""]))
        bundle.flush()
        return f"/proc/self/fd/{os.dup(bundle.fileno())}"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's certificate: its issuer and its expiry (Unix time)."""

    issuer: str
    expires: float


def server_certificate(target: Target, bundle: str, seconds: float) -> Certificate:
    """Return the certificate of a server, if it is trusted by `bundle`. Raises RemoteError."""
    try:
        with (
            socket.create_connection((target.host, target.port), seconds) as plain,
            ssl.create_default_context(cafile=bundle).wrap_socket(
                plain, server_hostname=target.host
            ) as connection,
        ):
            shown: dict[str, Any] = connection.getpeercert() or {}
    except FAILURES as error:
        raise as_remote_error(error, target, seconds, seconds) from error
    names = dict(pair for part in shown.get("issuer", ()) for pair in part)
    issuer = names.get("commonName") or names.get("organizationName") or "an authority without a name"
    return Certificate(issuer[:100], ssl.cert_time_to_seconds(shown["notAfter"]))
