"""Logins are found where docker and podman keep them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from core.errors import ConfigInvalid
from node.auth_file import Login, find_login

REGISTRY = "registry.example.com:5000"


def keep(path: Path, name: str, login: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"auth": base64.b64encode(login.encode()).decode()}
    path.write_text(json.dumps({"auths": {"other.example.com": {"auth": "eDp5"}, name: entry}}))


@pytest.mark.parametrize("name", [REGISTRY, f"https://{REGISTRY}/v1/", f"https://{REGISTRY}"])
def test_a_docker_login_is_found(tmp_path: Path, name: str) -> None:
    keep(tmp_path / ".docker/config.json", name, "reader:pass:word")
    assert find_login(REGISTRY, {}, tmp_path) == Login("reader", "pass:word")


def test_podmans_file_comes_before_dockers(tmp_path: Path) -> None:
    keep(tmp_path / ".docker/config.json", REGISTRY, "docker:1")
    keep(tmp_path / "run/containers/auth.json", REGISTRY, "podman:2")
    environ = {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
    assert find_login(REGISTRY, environ, tmp_path) == Login("podman", "2")


def test_without_a_login_there_is_none(tmp_path: Path) -> None:
    keep(tmp_path / ".docker/config.json", "registry.example.com", "x:y")
    assert find_login(REGISTRY, {}, tmp_path) is None


def test_a_file_named_by_the_environment_counts(tmp_path: Path) -> None:
    keep(tmp_path / "auth.json", REGISTRY, "a:b")
    assert find_login(REGISTRY, {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}, tmp_path) == Login(
        "a", "b"
    )


@pytest.mark.parametrize(
    "content",
    ["{", json.dumps({"auths": {REGISTRY: {}}}), json.dumps({"auths": {REGISTRY: {"auth": "!"}}})],
    ids=["not JSON", "in a credential helper", "not base64"],
)
def test_a_login_that_cannot_be_used_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(content)
    with pytest.raises(ConfigInvalid):
        find_login(REGISTRY, {}, tmp_path)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(Login("user", "secret"))
