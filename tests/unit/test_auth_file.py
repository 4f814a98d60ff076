"""Logins are found where docker and podman keep them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

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


def test_an_absent_login_is_none(tmp_path: Path) -> None:
    keep(tmp_path / ".docker/config.json", "registry.example.com", "x:y")
    assert find_login(REGISTRY, {}, tmp_path) is None


def test_a_file_named_by_the_environment_counts(tmp_path: Path) -> None:
    keep(tmp_path / "auth.json", REGISTRY, "a:b")
    assert find_login(REGISTRY, {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}, tmp_path) == Login(
        "a", "b"
    )


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "\udcff",
        "[" * 100_000,
        json.dumps({"auths": [REGISTRY]}),
        json.dumps({"credHelpers": [REGISTRY]}),
        json.dumps({"auths": {REGISTRY: {}}}),
        json.dumps({"auths": {REGISTRY: {"auth": "!"}}}),
    ],
    ids=[
        "not JSON",
        "not UTF-8",
        "nested too deeply",
        "a list of logins",
        "a list of helpers",
        "an empty entry",
        "not base64",
    ],
)
def test_an_unusable_login_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigInvalid):
        find_login(REGISTRY, {}, tmp_path)


HELPER = """#!/bin/sh
[ "$1" = get ] || exit 2
read -r registry || true
case "$registry" in
    %s) echo '{"ServerURL": "x", "Username": "reader", "Secret": "kept"}' ;;
    token.example.com) echo '{"ServerURL": "x", "Username": "<token>", "Secret": "kept"}' ;;
    broken.example.com) echo 'kept is not said'; exit 1 ;;
    *) echo "credentials not found in native keychain"; exit 1 ;;
esac
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who keeps logins in the helper `safe`."""
    helper = tmp_path / "bin/docker-credential-safe"
    helper.parent.mkdir()
    helper.write_text(HELPER % REGISTRY)
    helper.chmod(0o755)
    return {"PATH": f"{helper.parent}:/usr/bin:/bin", "DOCKER_CONFIG": str(tmp_path)}


@pytest.mark.parametrize(
    "config",
    [
        {"credsStore": "safe"},
        {"credsStore": "safe", "auths": {REGISTRY: {}}},
        {"credsStore": "other", "credHelpers": {REGISTRY: "safe"}},
    ],
)
def test_a_login_is_read_from_a_credential_helper(
    tmp_path: Path, environ: dict[str, str], config: dict[str, Any]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert find_login(REGISTRY, environ, tmp_path) == Login("reader", "kept")


def test_a_helper_without_a_login_is_not_an_error(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "safe"}))
    assert find_login("other.example.com", environ, tmp_path) is None


@pytest.mark.parametrize(
    ("registry", "helper", "problem"),
    [
        (REGISTRY, "missing", "docker-credential-missing is not in PATH"),
        (REGISTRY, "../bin/safe", "is not in PATH"),
        ("broken.example.com", "safe", "ended with status 1"),
        ("token.example.com", "safe", "identity token"),
    ],
)
def test_the_error_names_an_unusable_helper(
    tmp_path: Path, environ: dict[str, str], registry: str, helper: str, problem: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {registry: helper}}))
    with pytest.raises(ConfigInvalid) as raised:
        find_login(registry, environ, tmp_path)
    assert problem in str(raised.value)
    assert "kept is not said" not in str(raised.value)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(Login("user", "secret"))
