"""HTTP over TLS: whom the client believes, and what it does not carry out into the open."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from core.errors import ConnectionCut, Unavailable
from core.http.client import HttpClient
from tests.servers import bad_http
from tests.servers.http_server import start_http_server


def certificate(folder: Path, name: str = "127.0.0.1") -> Path:
    """A self-signed certificate for an address, and its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))])
    signed = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    path.write_bytes(
        signed.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    )
    return path


@contextmanager
def tls_server(pem: Path, answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that says `answer` to each connection and closes it; its URL, and what it was sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    asked: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with plain, suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
                asked.append(connection.recv(65_536))
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}", asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate that is among the system's, as far as OpenSSL is concerned."""
    pem = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    return pem


HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


def test_the_system_s_certificates_are_believed(trusted: Path) -> None:
    with tls_server(trusted, HELLO) as (url, _), HttpClient(1, 20) as client:
        assert client.fetch("GET", url).body == b"hello"
        assert client.fetch("GET", url).body == b"hello"


def test_a_stranger_s_certificate_is_not(tmp_path: Path) -> None:
    with tls_server(certificate(tmp_path), HELLO) as (url, asked), HttpClient(1, 20) as client:
        with pytest.raises(Unavailable, match=r"TLS.*certificate verify failed"):
            client.fetch("GET", url, headers={"Authorization": "Bearer secret"})
        assert asked == []


def test_a_certificate_for_another_host_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = certificate(tmp_path, "127.0.0.2")
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    with tls_server(other, HELLO) as (url, asked), HttpClient(1, 20) as client:
        with pytest.raises(Unavailable, match="TLS"):
            client.fetch("GET", url)
        assert asked == []


def test_a_cut_body_is_told_from_a_whole_one(trusted: Path) -> None:
    with (
        tls_server(trusted, HELLO[:-2]) as (url, _),
        HttpClient(1, 20) as client,
        pytest.raises(ConnectionCut),
    ):
        client.fetch("GET", url)


def test_credentials_are_not_carried_out_into_the_open(trusted: Path) -> None:
    with start_http_server() as plain, HttpClient(1, 20) as client:
        plain.on("/", bad_http.replying(200, b"there"))
        away = (
            f"HTTP/1.1 307 Away\r\nLocation: {plain.url}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        with tls_server(trusted, away.encode()) as (url, asked):
            answer = client.fetch("GET", url, headers={"Authorization": "Bearer secret"})
        assert answer.body == b"there"
        assert b"Authorization: Bearer secret" in asked[0]
        assert "Authorization" not in plain.requests[0].headers
