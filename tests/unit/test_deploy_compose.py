"""deploy/Dockerfile and deploy/compose.yaml match each other, the commands and the configuration."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.command_line import DEFAULT_CONFIG
from core.config.config import Config
from core.config.file import parse_config
from docker_torrents import CHECKS, parse_arguments

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {"setup", "web", "brewer", "mirror1", "mirror2"}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = ("core", "jobs", "node", "sql", "web")


def copied(dockerfile: Path) -> list[str]:
    """Return what the instruction COPY copies from the build context."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", dockerfile.read_text(), re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def load(name: str) -> Config:
    return parse_config((DEPLOY / "compose" / name).read_text(), name, {"DB_PASSWORD": "x"}, checks=CHECKS)


def mounts(service: str) -> dict[str, str]:
    """Return the mounts of a service by their path in the container."""
    return {line.split(":")[1]: line.split(":")[0] for line in SERVICES[service]["volumes"]}


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


def test_the_image_contains_all_installed_files() -> None:
    wanted = {*ROOMS, *(f"{name}.py" for name in PROJECT["tool"]["setuptools"]["py-modules"])}

    assert set(copied(DEPLOY / "Dockerfile")) == wanted | {"pyproject.toml", PROJECT["project"]["readme"]}
    for source in copied(DEPLOY / "Dockerfile"):
        assert (ROOT / source).exists()
        assert f"!{source}" in (ROOT / ".dockerignore").read_text().splitlines()
    for source in copied(DEPLOY / "compose" / "tracker.Dockerfile"):
        assert (DEPLOY / "compose" / source).exists()


def test_data_files_are_installed() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    installed = [f"{room}/{glob}" for room, globs in setuptools["package-data"].items() for glob in globs]
    beside = [path for path in tracked() if path.startswith(tuple(f"{room}/" for room in ROOMS))]

    assert set(ROOMS) == {name.rstrip("*") for name in setuptools["packages"]["find"]["include"]}
    for path in beside:
        assert path.endswith(".py") or any(fnmatch(path, glob) for glob in installed), path


def test_images_are_of_this_version() -> None:
    images = {SERVICES[name]["image"] for name in OURS}

    assert images == {f"registry.example.com/docker-torrents:{PROJECT['project']['version']}"}
    assert images.pop() in (DEPLOY / "Dockerfile").read_text()


def test_commands_exist_and_use_the_mounted_configuration() -> None:
    commands = {}
    for name in OURS:
        program, *words = SERVICES[name]["command"]
        arguments = parse_arguments(words)
        assert program == "docker_torrents"
        assert arguments.config == DEFAULT_CONFIG
        assert (DEPLOY / mounts(name)[str(DEFAULT_CONFIG)]).is_file()
        commands[name] = arguments.command

    assert commands == {
        "setup": "role",
        "web": "web",
        "brewer": "scheduler",
        "mirror1": "mirror",
        "mirror2": "mirror",
    }


def test_commands_in_the_docs_name_its_services_and_ports() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    shown = page.partition("### Docker Compose")[2].partition("\n## ")[0]
    published = {
        port.rpartition(":")[0] for service in SERVICES.values() for port in service.get("ports", ())
    }

    assert set(re.findall(r" exec (\w+)", shown)) == {"brewer", "mirror2"} <= set(SERVICES)
    assert set(re.findall(r"127\.0\.0\.1:\d+", shown)) == published


def test_written_folders_are_volumes_owned_by_the_user_of_the_image() -> None:
    config, mirror = load("config.yaml"), load("mirror.yaml")
    made = (DEPLOY / "Dockerfile").read_text()
    for name in ("setup", "web", "brewer"):
        assert mounts(name)[str(config.application.state_dir)] == "state"
    assert {mounts(name)[str(mirror.mirror.cache_dir)] for name in ("mirror1", "mirror2")} == {
        "mirror1",
        "mirror2",
    }
    for folder in (config.application.state_dir, mirror.mirror.cache_dir):
        assert re.search(rf"install -d .*-o 10050 -g 10050 .*{folder}\b", made)
    used = {source for name in SERVICES for source in mounts(name).values() if not source.startswith(".")}
    assert used == set(COMPOSE["volumes"])


def test_the_whitelist_is_where_the_tracker_reads_it() -> None:
    whitelist = load("config.yaml").jobs.publish_whitelist.file
    tracker = (DEPLOY / "compose" / "tracker.Dockerfile").read_text()
    [command] = re.findall(r"^CMD (.+)$", tracker, re.MULTILINE)

    assert whitelist == Path(yaml.safe_load(command)[-1]) / "whitelist.txt"
    assert mounts("brewer")[str(whitelist.parent)] == mounts("tracker")[str(whitelist.parent)]
    assert f"-o 10050 -g 10050 {whitelist.parent}\n" in tracker


def test_services_use_each_others_names_and_ports() -> None:
    config, mirror = load("config.yaml"), load("mirror.yaml")
    registry = yaml.safe_load((DEPLOY / "compose" / "registry.yml").read_text())
    [endpoint] = registry["notifications"]["endpoints"]
    database = SERVICES["database"]["environment"]

    assert config.docker_registry.host == f"registry{registry['http']['addr']}"
    assert endpoint["url"] == f"http://web:{config.application.port}/v0/event"
    assert endpoint["headers"]["Authorization"] == [
        config.application.event_authorization and config.application.event_authorization.get_secret_value()
    ]
    assert (config.db.host, config.db.database) == (["database"], database["POSTGRES_DB"])
    assert config.db.username == database["POSTGRES_USER"]
    assert config.db.password is not None
    assert SERVICES["web"]["environment"]["DB_PASSWORD"] == database["POSTGRES_PASSWORD"]
    assert config.trackers == ["http://tracker:6969/announce"]
    assert str(config.application.public_url) == f"http://{mirror.docker_registry.host}" == "http://nginx"


def test_addresses_are_those_of_the_network() -> None:
    [network] = COMPOSE["networks"]["default"]["ipam"]["config"]
    application = load("config.yaml").application

    assert [str(proxy) for proxy in application.trusted_proxies] == [network["subnet"]]
    assert [str(one) for one in application.status_networks] == [f"{network['gateway']}/32"]


def test_published_ports_are_served_and_bound_to_this_machine() -> None:
    config, mirror = load("config.yaml"), load("mirror.yaml")
    published = {name: SERVICES[name]["ports"] for name in SERVICES if "ports" in SERVICES[name]}

    assert published == {
        "web": [f"127.0.0.1:10050:{config.application.port}"],
        "nginx": ["127.0.0.1:5000:80"],
        "mirror1": [f"127.0.0.1:5051:{mirror.mirror.port}"],
        "mirror2": [f"127.0.0.1:5052:{mirror.mirror.port}"],
    }
    assert f":{config.application.port}/ping" in SERVICES["web"]["healthcheck"]["test"][-1]


def test_services_wait_for_services() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", [])) < set(SERVICES), name


def test_nginx_is_the_shipped_one_with_other_addresses(tmp_path: Path) -> None:
    shell, option, script = SERVICES["nginx"]["command"]
    made, run = script.split(" && exec ")
    made = made.replace("/etc/nginx/conf.d/default.conf", str(tmp_path / "nginx.conf"))
    shipped = DEPLOY / mounts("nginx")["/deploy/nginx.conf"]
    subprocess.run([shell, option, made.replace("/deploy/nginx.conf", str(shipped))], check=True)
    servers = re.findall(r"^ +server (\S+);", (tmp_path / "nginx.conf").read_text(), re.MULTILINE)

    assert shlex.split(run)[0] == "nginx"
    assert servers == ["web:10050", "web:10050", "registry:5000"]
