"""The registry as the authority: callers get its challenge, and it gets their credentials."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from core.digest import Digest
from core.errors import AccessDenied, TimedOut, Unavailable
from tests.servers.bad_http import html, redirecting, replying, silent
from tests.servers.http_server import start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.moto import Moto
from tests.servers.push import Bearer, PushedImage, push_image
from tests.servers.registry import Registry, start_registry
from tests.servers.token_server import TokenServer, User, start_token_server
from tests.web_manifests import ENGINE, brew, code_of, ids, rbtorrent
from tests.web_server import Front, front_of

PASSWORDS = {"reader": "throw-away", "other": "another"}
RIGHTS = {"reader": "team/a", "other": "team/b"}
ALL = [{"type": "repository", "name": name, "actions": ["pull", "push"]} for name in ("team/a", "team/b")]


def basic(user: str, password: str | None = None) -> str:
    credentials = f"{user}:{PASSWORDS[user] if password is None else password}"
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


@pytest.fixture(scope="module")
def htpasswd_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with start_registry(tmp_path_factory.mktemp("htpasswd"), htpasswd=PASSWORDS) as server:
        yield server


@pytest.fixture(scope="module")
def token_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    users = {name: User(password, {RIGHTS[name]: {"pull"}}) for name, password in PASSWORDS.items()}
    anybody = User("", {"public/*": {"pull"}})
    with start_token_server(tmp_path_factory.mktemp("tokens"), users, anonymous=anybody) as server:
        yield server


@pytest.fixture(scope="module")
def token_registry(token_server: TokenServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    auth = token_server.registry_auth()
    with start_registry(tmp_path_factory.mktemp("token"), token=auth) as server:
        yield server


@pytest.fixture(scope="module")
def image(htpasswd_registry: Registry) -> PushedImage:
    return push_image(
        htpasswd_registry, "team/a", "latest", [layer_bytes(1000)], auth=("reader", PASSWORDS["reader"])
    )


@pytest.fixture(scope="module")
def token_images(token_server: TokenServer, token_registry: Registry) -> dict[str, PushedImage]:
    pusher = Bearer(token_server.token("pusher", ALL))
    return {
        scope: push_image(token_registry, scope, "latest", [layer_bytes(1000, number)], auth=pusher)
        for number, scope in enumerate(("team/a", "team/b"))
    }


@pytest.fixture
def front(htpasswd_registry: Registry, image: PushedImage, tmp_path: Path) -> Iterator[Front]:
    with front_of(htpasswd_registry.netloc, tmp_path / "front") as front:
        brew(front, *image.layers)
        yield front


@pytest.fixture
def token_front(
    token_registry: Registry, token_images: dict[str, PushedImage], tmp_path: Path
) -> Iterator[Front]:
    with front_of(token_registry.netloc, tmp_path / "front") as front:
        for image in token_images.values():
            brew(front, *image.layers)
        yield front


@pytest.mark.parametrize("path", ["/v2/", "/v2/team/a/manifests/latest"])
@pytest.mark.parametrize("authorization", [None, basic("reader", "wrong"), "Bearer x", "Basic !!!", ""])
def test_without_a_password_the_registrys_challenge_is_passed_back(
    front: Front, path: str, authorization: str | None
) -> None:
    sent = {} if authorization is None else {"Authorization": authorization}
    for answer in (front.get(path, **sent), front.get(path, Accept=ENGINE, **sent)):
        assert (answer.status, code_of(answer)) == (401, "UNAUTHORIZED")
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="tests"'
    head = front.head(path, **sent)
    assert (head.status, head.body) == (401, b"")
    assert head.headers["WWW-Authenticate"] == 'Basic realm="tests"'


def test_with_the_password_the_manifest_is_returned(front: Front, image: PushedImage) -> None:
    sent = {"Authorization": basic("reader")}
    assert front.get("/v2/", **sent).status == 200
    answer = front.get("/v2/team/a/manifests/latest", **sent)
    assert ids(answer) == [rbtorrent(image.layers[0].digest)]
    assert front.get("/v2/team/a/manifests/latest", Accept=ENGINE, **sent).body == image.manifest


def test_an_answer_for_one_caller_is_not_reused_for_another(front: Front) -> None:
    path = "/v2/team/a/manifests/latest"
    good = front.get(path, Authorization=basic("reader"))
    assert good.status == 200
    assert front.get(path).status == 401
    assert front.get(path, If_None_Match=good.headers["ETag"] or "").status == 401
    assert front.get(path, Authorization=basic("reader", "wrong")).status == 401


def test_two_authorization_headers_admit_no_caller(front: Front) -> None:
    # The form in which servers join two lines of one header (RFC 9110, 5.3).
    joined = f"{basic('reader')}, {basic('reader')}"
    assert front.get("/v2/team/a/manifests/latest", Authorization=joined).status in (400, 401)


def test_the_realm_of_a_token_challenge_stays_the_registrys(
    token_front: Front, token_server: TokenServer
) -> None:
    answer = token_front.get("/v2/team/a/manifests/latest")
    assert answer.status == 401
    challenge = answer.headers["WWW-Authenticate"] or ""
    assert challenge.startswith(f'Bearer realm="{token_server.realm}",')
    assert 'scope="repository:team/a:pull"' in challenge
    ping = token_front.get("/v2/", X_Forwarded_Host="front.example").headers["WWW-Authenticate"] or ""
    assert ping.startswith(f'Bearer realm="{token_server.realm}",')


def test_a_token_for_one_repository_is_refused_for_another(
    token_front: Front, token_server: TokenServer, token_images: dict[str, PushedImage]
) -> None:
    with requests.Session() as session:
        session.trust_env = False
        params = {"service": "tests' registry", "scope": "repository:team/a:pull"}
        credentials = ("reader", PASSWORDS["reader"])
        answer = session.get(token_server.realm, params=params, auth=credentials, timeout=60)
    sent = {"Authorization": f"Bearer {answer.json()['token']}"}
    layer = token_images["team/a"].layers[0]
    assert ids(token_front.get("/v2/team/a/manifests/latest", **sent)) == [rbtorrent(layer.digest)]
    for reference in ("latest", token_images["team/b"].digest):
        for query in ("", "?rbtorrent=true", "?rbtorrent=false"):
            refused = token_front.get(f"/v2/team/b/manifests/{reference}{query}", **sent)
            assert (refused.status, code_of(refused)) == (401, "UNAUTHORIZED")
            assert "insufficient_scope" in (refused.headers["WWW-Authenticate"] or "")


def test_the_registry_decides_who_may_pull_a_layer(front: Front, image: PushedImage) -> None:
    access, layer = front.parts.access, Digest.parse(image.layers[0].digest)
    access.may_pull("team/a", layer, basic("reader"))
    for authorization in (None, basic("reader", "wrong")):
        with pytest.raises(AccessDenied) as denied:
            access.may_pull("team/a", layer, authorization)
        assert (denied.value.status, denied.value.code) == (401, "UNAUTHORIZED")
        assert dict(denied.value.headers) == {"WWW-Authenticate": 'Basic realm="tests"'}
    for scope, digest in (("team/b", layer), ("team/a", Digest("0" * 64))):
        with pytest.raises(AccessDenied) as denied:
            access.may_pull(scope, digest, basic("reader"))
        assert (denied.value.status, denied.value.code) == (404, "BLOB_UNKNOWN")


def test_the_registrys_answer_on_a_layer_is_understood(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layer = Digest("a" * 64)
    path = f"/v2/team/a/blobs/{layer}"
    with ExitStack() as stack:
        registry = stack.enter_context(start_http_server())
        access = stack.enter_context(front_of(registry.netloc, tmp_path)).parts.access
        for status, expected in [(403, 403), (429, 429), (500, 502), (204, 502), (418, 502)]:
            registry.on(path, replying(status, headers={"Retry-After": "3"}))
            with pytest.raises(AccessDenied) as denied:
                access.may_pull("team/a", layer, None)
            assert denied.value.status == expected
            assert dict(denied.value.headers) == {"Retry-After": "3"}
            assert (f"registry gave no verdict status={status} " in caplog.text) == (expected == 502)
        registry.on(path, html())
        with pytest.raises(AccessDenied):
            access.may_pull("team/a", layer, None)
        registry.close()
        with pytest.raises(Unavailable):
            access.may_pull("team/a", layer, None)


def test_a_registry_that_is_silent_about_a_layer_times_out(tmp_path: Path) -> None:
    with start_http_server() as registry, front_of(registry.netloc, tmp_path, read_timeout=1.0) as front:
        registry.on("/*", silent())
        with pytest.raises(TimedOut):
            front.parts.access.may_pull("team/a", Digest("a" * 64), None)


BLOB = Digest("a" * 64)
STORED = f"docker/registry/v2/blobs/sha256/aa/{BLOB.hex}/data"


def admits_everyone(folder: Path, location: str, status: int) -> bool:
    """Return whether a redirect to `location` counts as permission."""
    asked = f"/v2/team/a/blobs/{BLOB}"
    with start_http_server() as registry, front_of(registry.netloc, folder) as front:
        registry.on(asked, redirecting(location.format(netloc=registry.netloc, asked=asked), status))
        try:
            front.parts.access.may_pull("team/a", BLOB, None)
        except AccessDenied as denied:
            assert (denied.status, denied.code) == (502, "UNAVAILABLE")
            return False
        return True


@pytest.mark.parametrize(
    "location",
    [
        f"https://bucket.s3.example.com/{STORED}?X-Amz-Signature=x",
        f"https://s3.example.com/bucket/prefix/{STORED}?X-Amz-Signature=x",
        f"https://account.blob.example.com/container/{STORED.replace('/', '%2F')}?sig=x",
        # A storage on the registry's machine.
        f"http://127.0.0.1:9000/bucket/{STORED}?X-Amz-Signature=x",
    ],
)
def test_a_redirect_to_the_storage_is_permission(tmp_path: Path, location: str) -> None:
    assert admits_everyone(tmp_path, location, 307)
    for status in (301, 302, 303, 308):
        assert not admits_everyone(tmp_path / str(status), location, status)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.1{asked}",
        "https://{netloc}{asked}",
        "http://{netloc}{asked}/",
        "https://registry.example.com{asked}",
        "/oauth2/start?rd={asked}",
        f"https://login.example.com/start?rd=/{STORED}",
        f"https://127.0.0.1/{STORED}",
        f"/{STORED}",
        f"https://bucket.s3.example.com/{STORED.replace('a' * 64, 'b' * 64)}",
        "ftp://storage.example.com/" + STORED,
        "",
    ],
)
def test_any_other_redirect_admits_no_caller(tmp_path: Path, status: int, location: str) -> None:
    assert not admits_everyone(tmp_path, location, status)


def test_a_registry_with_blobs_in_s3_admits_permitted_callers(tmp_path: Path, moto: Moto) -> None:
    s3 = moto.registry_storage(moto.create_bucket())
    with start_registry(tmp_path / "registry", s3=s3, htpasswd=PASSWORDS) as registry:
        image = push_image(
            registry, "team/a", "latest", [layer_bytes(1000)], auth=("reader", PASSWORDS["reader"])
        )
        layer = Digest.parse(image.layers[0].digest)
        with front_of(registry.netloc, tmp_path / "front") as front:
            front.parts.access.may_pull("team/a", layer, basic("reader"))
            assert registry.requests()[-1][2] == 307
            with pytest.raises(AccessDenied):
                front.parts.access.may_pull("team/a", layer, None)
