"""The registry client's credentials, with htpasswd and with a token server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import Refused
from core.registry.client import RegistryClient
from tests.registry_clients import client_of
from tests.servers.push import Bearer, PushedImage, push_image
from tests.servers.registry import Registry, start_registry
from tests.servers.token_server import TokenServer, User, start_token_server

SCOPE = "team/app"
PUSHER = User("push word", {"*": {"pull", "push"}})
BREWER = User("brew: wörd", {"team/*": {"pull"}, "registry": {"*"}})


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with htpasswd."""
    users = {"brewer": BREWER.password}
    with start_registry(tmp_path_factory.mktemp("htpasswd"), htpasswd=users) as server:
        yield server


@pytest.fixture(scope="module")
def closed_image(closed: Registry) -> PushedImage:
    return push_image(closed, SCOPE, "latest", [b"layer"], auth=("brewer", BREWER.password.encode()))


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    users = {"pusher": PUSHER, "brewer": BREWER}
    public = User("", {"public/*": {"pull"}})
    with start_token_server(tmp_path / "tokens", users, anonymous=public) as server:
        yield server


@pytest.fixture
def guarded(tokens: TokenServer, tmp_path: Path) -> Iterator[Registry]:
    """A registry that accepts the token server's tokens, with an image in a private and a public scope."""
    with start_registry(tmp_path / "registry", token=tokens.registry_auth()) as server:
        for scope in (SCOPE, "public/app"):
            access = [{"type": "repository", "name": scope, "actions": ["pull", "push"]}]
            push_image(server, scope, "latest", [b"layer"], auth=Bearer(tokens.token("pusher", access)))
        yield server


class TestBasic:
    def test_admits_the_brewer(self, closed: Registry, closed_image: PushedImage) -> None:
        with client_of(closed.netloc, "brewer", BREWER.password) as client:
            assert client.fetch_manifest(SCOPE, "latest").body == closed_image.manifest
            assert str(client.head_manifest(SCOPE, "latest")) == closed_image.digest
            assert list(client.list_tags(SCOPE)) == ["latest"]
            assert list(client.list_repositories()) == [SCOPE]
            client.ping()

    def test_is_sent_at_once_after_the_registrys_first_challenge(
        self, closed: Registry, closed_image: PushedImage
    ) -> None:
        before = len(closed.requests())
        with client_of(closed.netloc, "brewer", BREWER.password) as client:
            client.fetch_manifest(SCOPE, "latest")
            client.fetch_manifest(SCOPE, "latest")
        assert [status for _, _, status in closed.requests()[before:]] == [401, 200, 200]

    @pytest.mark.parametrize(
        ("user", "password", "why"),
        [
            ("brewer", "s3cret-but-not-his", "wrong password for user brewer"),
            ("stranger", "any", "wrong password for user stranger"),
            (None, None, "set brewer.brew_user and brewer.brew_password"),
            ("brewer", None, "set brewer.brew_user and brewer.brew_password"),
        ],
    )
    def test_refuses_others_with_a_reason(
        self, closed: Registry, closed_image: PushedImage, user: str | None, password: str | None, why: str
    ) -> None:
        with client_of(closed.netloc, user, password) as client:
            with pytest.raises(Refused, match=why) as caught:
                client.fetch_manifest(SCOPE, "latest")
            assert caught.value.status == 401
            with pytest.raises(Refused, match=why):
                client.head_manifest(SCOPE, "latest")
            with pytest.raises(Refused):
                list(client.list_repositories())
        assert "s3cret" not in str(caught.value)


class TestTokens:
    def test_let_the_brewer_pull(self, guarded: Registry) -> None:
        with client_of(guarded.netloc, "brewer", BREWER.password) as client:
            check_pulls(client, SCOPE)
            client.ping()

    def test_allow_anonymous_pulls_of_public_images(self, guarded: Registry) -> None:
        with client_of(guarded.netloc) as client:
            check_pulls(client, "public/app")
            with pytest.raises(Refused, match="does not let anonymous callers do this") as caught:
                client.fetch_manifest(SCOPE, "latest")
            assert caught.value.status == 401

    def test_are_requested_once_per_scope(self, guarded: Registry, tokens: TokenServer) -> None:
        with client_of(guarded.netloc, "brewer", BREWER.password) as client:
            for _ in range(3):
                check_pulls(client, SCOPE)
            assert len(tokens.requests) == 1
            with pytest.raises(Refused):
                client.fetch_manifest("public/app", "latest")
        asked = [request.query for request in tokens.requests]
        assert asked[0]["scope"] == [f"repository:{SCOPE}:pull"]
        assert asked[0]["account"] == ["brewer"]
        assert asked[0]["service"] == [tokens.registry_auth()["service"]]
        assert asked[1]["scope"] == ["repository:public/app:pull"]

    def test_for_another_scope_are_requested_before_the_registry(
        self, guarded: Registry, tokens: TokenServer
    ) -> None:
        with client_of(guarded.netloc, "brewer", BREWER.password) as client:
            client.ping()
            before = len(guarded.requests())
            client.fetch_manifest(SCOPE, "latest")
            assert [status for _, _, status in guarded.requests()[before:]] == [200]

    def test_that_expire_are_replaced(self, guarded: Registry, tokens: TokenServer) -> None:
        tokens.lifetime = 0
        with client_of(guarded.netloc, "brewer", BREWER.password) as client:
            check_pulls(client, SCOPE)
            assert len(tokens.requests) > 1

    def test_open_the_catalog_to_authorised_users(self, guarded: Registry, tokens: TokenServer) -> None:
        with client_of(guarded.netloc, "brewer", BREWER.password) as client:
            assert sorted(client.list_repositories()) == ["public/app", SCOPE]
        assert tokens.requests[-1].query["scope"] == ["registry:catalog:*"]
        with client_of(guarded.netloc) as client, pytest.raises(Refused) as caught:
            list(client.list_repositories())
        assert caught.value.status == 401

    def test_are_fetched_by_one_thread_for_all(self, guarded: Registry, tokens: TokenServer) -> None:
        with client_of(guarded.netloc, "brewer", BREWER.password) as client:
            threads = [threading.Thread(target=check_pulls, args=(client, SCOPE)) for _ in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(tokens.requests) == 1

    def test_are_refused_with_a_wrong_password(self, guarded: Registry, tokens: TokenServer) -> None:
        with client_of(guarded.netloc, "brewer", "wrong") as client:
            with pytest.raises(Refused, match="token server") as caught:
                client.fetch_manifest("public/app", "latest")
            assert caught.value.status == 401
        assert "wrong user or password" in str(caught.value)


def check_pulls(client: RegistryClient, scope: str) -> None:
    """Check everything that a pull needs."""
    fetched = client.fetch_manifest(scope, "latest")
    assert client.head_manifest(scope, "latest") == fetched.digest
    assert client.fetch_manifest(scope, fetched.digest).body == fetched.body
    assert list(client.list_tags(scope)) == ["latest"]
