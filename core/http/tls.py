"""The certificates that every TLS connection trusts: the system's store, and `tls.ca_file`."""

from __future__ import annotations

import atexit
import os
import re
import ssl
import tempfile
from functools import lru_cache
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from core.errors import ConfigInvalid

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
    """Return the file with the system's certificates; that of requests where the system has none.

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

    Together they are a temporary file, which is removed when this process ends.
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
    descriptor, path = tempfile.mkstemp(prefix="docker-torrents-", suffix=".pem")
    atexit.register(_remove, path)
    with os.fdopen(descriptor, "w", encoding="ascii") as bundle:
        bundle.write("\n".join([*_CERTIFICATE.findall(system), *certificates, ""]))
    return path


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
