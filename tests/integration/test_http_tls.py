"""HTTP over TLS: which certificates are trusted, and that credentials are not sent in cleartext."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pydantic import SecretStr

from core.clients import http_client, open_bucket
from core.config.config import S3, Config, DockerRegistry, Tls
from core.errors import ConfigInvalid, ConnectionCut, Unavailable
from core.http.client import HttpClient
from core.http.tls import system_store, trusted_bundle
from core.s3 import Bucket, s3_client
from tests.servers import bad_http
from tests.servers.certificate import certificate
from tests.servers.http_server import start_http_server


@contextmanager
def tls_server(pem: Path, answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Run a server that sends `answer` on each connection and closes it. Yields its URL and the received bytes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    received: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with plain, suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
                received.append(connection.recv(65_536))
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}", received
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    """A self-signed certificate, to be named as tls.ca_file."""
    return certificate(tmp_path)


@pytest.fixture
def client(trusted: Path) -> Iterator[HttpClient]:
    with HttpClient(1, 20, ca_bundle=trusted_bundle(trusted)) as running:
        yield running


HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


def test_the_certificates_of_ca_file_are_trusted_in_addition_to_the_systems(
    trusted: Path, client: HttpClient
) -> None:
    with tls_server(trusted, HELLO) as (url, _):
        assert client.fetch("GET", url).body == b"hello"
        assert client.fetch("GET", url).body == b"hello"
    both = ssl.create_default_context(cafile=trusted_bundle(trusted)).get_ca_certs(binary_form=True)
    system = ssl.create_default_context(cafile=system_store()).get_ca_certs(binary_form=True)
    assert len(both) == len(system) + 1
    assert set(system) < set(both)


def test_an_unknown_certificate_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with tls_server(certificate(tmp_path), HELLO) as (url, received), HttpClient(1, 20) as client:
        with pytest.raises(
            Unavailable, match=r"TLS certificate not trusted .*the system's store or into tls\.ca_file"
        ):
            client.fetch("GET", url, headers={"Authorization": "Bearer secret"})
        assert received == []


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE"])
def test_environment_variables_do_not_change_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    own = certificate(tmp_path)
    monkeypatch.setenv(name, str(own))
    with tls_server(own, HELLO) as (url, received), HttpClient(1, 20) as client:
        with pytest.raises(Unavailable, match="not trusted"):
            client.fetch("GET", url)
        assert received == []
        s3 = s3_client(url, "us-east-1", "tests", "not a secret", 1, 5)
        with pytest.raises(Unavailable, match=r"tls\.ca_file"):
            Bucket(s3, "bucket").check()
        assert received == []


@pytest.mark.parametrize("store", ["tls.ca_file", "the system's"])
def test_all_clients_trust_the_same_certificates(
    tmp_path: Path, trusted: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    config = Config(
        docker_registry=DockerRegistry(host="a"),
        s3=S3(region="us-east-1", access_key="tests", secret_key=SecretStr("not a secret")),
        tls=Tls(ca_file=trusted if store == "tls.ca_file" else None),
    )
    if store == "the system's":
        monkeypatch.setattr("core.http.tls._SYSTEM_FILES", (str(trusted),))
    system_store.cache_clear()
    trusted_bundle.cache_clear()
    try:
        with tls_server(trusted, HELLO) as (url, _), http_client(config, 1, 20) as client:
            assert client.fetch("GET", url).body == b"hello"
            s3 = config.s3.model_copy(update={"endpoint_url": url})
            assert open_bucket(config.model_copy(update={"s3": s3}), "bucket").get("key", 100) == b"hello"
    finally:
        system_store.cache_clear()
        trusted_bundle.cache_clear()


def test_s3_trusts_the_certificates_of_ca_file(trusted: Path) -> None:
    with tls_server(trusted, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") as (
        url,
        received,
    ):
        s3 = s3_client(url, "us-east-1", "tests", "not a secret", 1, 5, ca_bundle=trusted_bundle(trusted))
        Bucket(s3, "bucket").check()
    assert len(received) == 1


def test_s3_reports_an_unknown_certificate_with_the_remedy(tmp_path: Path) -> None:
    with tls_server(certificate(tmp_path), b"") as (url, _):
        client = s3_client(url, "eu-west-1", "key", "secret", 1, 20)
        with pytest.raises(Unavailable, match=r"not trusted \(self-signed certificate\).*tls\.ca_file"):
            Bucket(client, "bucket").get("key", 100)


@pytest.mark.parametrize(
    ("name", "starts", "days", "remedy"),
    [
        ("127.0.0.2", -1, 1, "use a name that it lists"),
        ("127.0.0.1", -48, -1, r"expired\): the server has to renew it"),
        ("127.0.0.1", 2, 1, "is the clock of this machine right?"),
    ],
)
def test_a_certificate_that_does_not_hold_here_and_now_is_refused(
    tmp_path: Path, name: str, starts: int, days: int, remedy: str
) -> None:
    other = certificate(tmp_path, name, starts=starts, days=days)
    with (
        tls_server(other, HELLO) as (url, received),
        HttpClient(1, 20, ca_bundle=trusted_bundle(other)) as client,
    ):
        with pytest.raises(Unavailable, match=f"TLS certificate not trusted .*{remedy}"):
            client.fetch("GET", url)
        assert received == []


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_an_unusable_ca_file_is_a_configuration_error(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=r"tls\.ca_file: .*ca\.pem"):
        trusted_bundle(file)


def test_a_truncated_body_is_detected(trusted: Path, client: HttpClient) -> None:
    with tls_server(trusted, HELLO[:-2]) as (url, _), pytest.raises(ConnectionCut):
        client.fetch("GET", url)


def test_credentials_do_not_follow_a_redirect_to_plain_http(trusted: Path, client: HttpClient) -> None:
    with start_http_server() as plain:
        plain.on("/", bad_http.replying(200, b"there"))
        away = (
            f"HTTP/1.1 307 Away\r\nLocation: {plain.url}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        with tls_server(trusted, away.encode()) as (url, received):
            answer = client.fetch("GET", url, headers={"Authorization": "Bearer secret"})
        assert answer.body == b"there"
        assert b"Authorization: Bearer secret" in received[0]
        assert "Authorization" not in plain.requests[0].headers
