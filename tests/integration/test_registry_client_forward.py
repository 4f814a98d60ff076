"""A caller's requests, passed through to the registry unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from core.digest import Digest
from core.errors import BadAnswer, ConnectionCut, RemoteError, TimedOut
from core.http.url import parse_url
from core.manifests.media_types import OCI_MANIFEST
from core.registry.client import MANIFEST_LIMIT, RegistryClient
from core.registry.urls import has_name
from tests.registry_clients import SILENCE_SECONDS, client_of
from tests.servers import bad_http
from tests.servers.http_server import Answer, HttpServer, start_http_server
from tests.servers.push import PushedImage, push_image
from tests.servers.registry import Registry, start_registry

SCOPE = "team/app"
CALLER = ("caller", "pass word")
# Headers that differ between answers.
PASSING = {"Date"}


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with start_registry(tmp_path_factory.mktemp("forward"), htpasswd=dict([CALLER])) as server:
        yield server


@pytest.fixture(scope="module")
def image(closed: Registry) -> PushedImage:
    return push_image(closed, SCOPE, "latest", [b"layer"], media="oci", auth=CALLER)


@pytest.fixture
def client(closed: Registry) -> Iterator[RegistryClient]:
    """A client with its own password, which must not be used for the caller."""
    with client_of(closed.netloc, *CALLER) as running:
        running.ping()
        yield running


def header_of(user: str, password: str) -> str:
    prepared = requests.Request("GET", "http://example.com/", auth=(user, password)).prepare()
    return str(prepared.headers["Authorization"])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("what", ["ping", "tag", "digest", "missing", "not accepted", "not allowed"])
def test_the_registrys_answer_is_returned_byte_for_byte_with_its_headers(
    closed: Registry, image: PushedImage, client: RegistryClient, method: str, what: str
) -> None:
    headers = {"Accept": OCI_MANIFEST, "Authorization": header_of(*CALLER), "Accept-Encoding": "identity"}
    if what == "not accepted":
        headers["Accept"] = "application/vnd.docker.distribution.manifest.v2+json"
    if what == "not allowed":
        del headers["Authorization"]
    reference: str | Digest = {"digest": Digest.parse(image.digest), "missing": "other"}.get(what, "latest")
    url = client.urls.base if what == "ping" else client.urls.manifest(SCOPE, reference)

    direct = requests.request(method, url, headers=headers, timeout=60)
    passed = client.forward(method, url, headers)

    assert passed.status == direct.status_code
    assert passed.body == direct.content
    assert without_passing(list(passed.headers)) == without_passing(list(direct.headers.items()))


def without_passing(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name not in PASSING]


def test_the_caller_s_own_headers_decide(
    closed: Registry, image: PushedImage, client: RegistryClient
) -> None:
    theirs = {"Authorization": header_of(*CALLER), "Accept": OCI_MANIFEST}
    known = client.forward(
        "GET", client.urls.manifest(SCOPE, "latest"), {**theirs, "If-None-Match": f'"{image.digest}"'}
    )
    assert known.status == 304
    wrong = client.forward(
        "GET", client.urls.manifest(SCOPE, "latest"), {"Authorization": header_of("caller", "wrong")}
    )
    assert wrong.status == 401
    assert wrong.headers.all("WWW-Authenticate") == ['Basic realm="tests"']


def test_a_layer_exists_only_for_authorised_callers(
    closed: Registry, image: PushedImage, client: RegistryClient
) -> None:
    digest = Digest.parse(image.layers[0].digest)
    theirs = {"Authorization": header_of(*CALLER)}
    found = client.forward("HEAD", client.urls.blob(SCOPE, digest), theirs)
    assert found.status == 200
    assert found.headers.number("Content-Length") == len(b"layer")
    assert client.forward("HEAD", client.urls.blob(SCOPE, digest), {}).status == 401
    assert client.forward("HEAD", client.urls.blob("other/app", digest), theirs).status == 404


class TestARegistryThatBehavesBadly:
    @pytest.fixture
    def registry(self) -> Iterator[HttpServer]:
        with start_http_server() as server:
            yield server

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (bad_http.silent(), TimedOut),
            (bad_http.dripping(b"x" * 1000, size=10, seconds=0.1), TimedOut),
            (bad_http.hanging_up(), ConnectionCut),
            (bad_http.serving(b"x" * 1000, cut_after=10), ConnectionCut),
            (bad_http.replying(200, b"x" * (MANIFEST_LIMIT + 1)), BadAnswer),
            (bad_http.endless(), BadAnswer),
            (bad_http.sending(b"nothing known\r\n\r\n"), BadAnswer),
        ],
    )
    def test_gives_no_answer(self, registry: HttpServer, answer: Answer, error: type[RemoteError]) -> None:
        registry.on("/*", answer)
        seconds = SILENCE_SECONDS if error is TimedOut else 60.0
        with client_of(registry.netloc, read_timeout=seconds) as client, pytest.raises(error):
            client.forward("GET", client.urls.manifest(SCOPE, "latest"), {"Authorization": "Bearer secret"})

    @pytest.mark.parametrize("status", [307, 401, 403, 404, 429, 500, 503])
    def test_is_passed_on_with_any_status(self, registry: HttpServer, status: int) -> None:
        said = {"Location": "http://s3.example.com/?signature", "Retry-After": "5"}
        registry.on("/*", bad_http.replying(status, b"why", said))
        with client_of(registry.netloc) as client:
            answer = client.forward("GET", client.urls.manifest(SCOPE, "latest"), {})
        assert (answer.status, answer.body) == (status, b"why")
        assert answer.headers.get("Location") == said["Location"]
        assert answer.headers.get("Retry-After") == said["Retry-After"]
        assert len(registry.requests) == 1


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://127.0.0.1:5000/v2/", False),
        ("http://[::1]:5000/v2/", False),
        ("http://[::ffff:10.0.0.1]/v2/", False),
        ("http://localhost:5000/v2/", False),
        ("http://registry:5000/v2/", False),
        ("https://registry.example.com/v2/", True),
        ("https://registry.default.svc:5000/v2/", True),
    ],
)
def test_a_registry_with_a_name_differs_from_one_at_an_address(url: str, named: bool) -> None:
    assert has_name(parse_url(url).host) is named
