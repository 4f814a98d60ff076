"""deploy/kubernetes/mirror.yaml is valid and matches the commands and the configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.command_line import DONE
from core.config.config import Config
from core.config.file import parse_config
from docker_torrents import parse_arguments
from node.configure import run_configure

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFEST = DEPLOY / "kubernetes" / "mirror.yaml"
CONTAINERS = ["configure", "own-cache", "mirror"]


def objects() -> dict[str, Any]:
    return {found["kind"]: found for found in yaml.safe_load_all(MANIFEST.read_text())}


def config() -> Config:
    return parse_config(objects()["ConfigMap"]["data"]["config.yaml"], "mirror.yaml", {})


def pod() -> dict[str, Any]:
    found: dict[str, Any] = objects()["DaemonSet"]["spec"]["template"]["spec"]
    return found


def container(name: str) -> dict[str, Any]:
    containers = {one["name"]: one for one in pod()["initContainers"] + pod()["containers"]}
    assert list(containers) == CONTAINERS
    found: dict[str, Any] = containers[name]
    return found


def test_the_containers_run_existing_commands() -> None:
    mirror, configure = (parse_arguments(container(name)["args"]) for name in ("mirror", "configure"))

    assert (mirror.command, getattr(mirror, "action", None)) == ("mirror", None)
    assert (configure.command, configure.action, configure.engines) == ("mirror", "configure", ["containerd"])


def test_the_node_is_configured_through_the_mounted_folder(tmp_path: Path) -> None:
    arguments = parse_arguments(container("configure")["args"])
    mounts = {mount["name"]: mount["mountPath"] for mount in container("configure")["volumeMounts"]}
    certs_d = Path(mounts["certs-d"]).relative_to(arguments.root)
    arguments.root = tmp_path

    assert run_configure(config(), arguments) == DONE
    [written] = (path for path in tmp_path.rglob("*") if path.is_file())
    assert written == tmp_path / certs_d / config().docker_registry.host / "hosts.toml"
    assert list(tomllib.loads(written.read_text())["host"]) == [f"http://127.0.0.1:{config().mirror.port}"]
    assert volumes()["certs-d"]["hostPath"]["path"] == f"/{certs_d}"


def test_ports_and_paths_are_those_of_the_configuration() -> None:
    mirror = config().mirror
    ports = {port["name"]: port["containerPort"] for port in container("mirror")["ports"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container("mirror")["volumeMounts"]}

    assert ports == {"mirror": mirror.port, "peers": mirror.peer_port}
    assert mounts["cache"] == str(mirror.cache_dir)
    for probe in ("livenessProbe", "readinessProbe"):
        asked = container("mirror")[probe]["httpGet"]
        assert (asked["host"], asked["port"]) == (mirror.host, mirror.port)


def test_every_mount_is_a_volume() -> None:
    mounted = {mount["name"] for name in CONTAINERS for mount in container(name).get("volumeMounts", [])}

    assert mounted == set(volumes())


def test_pods_are_selected_by_their_labels_and_share_the_nodes_network() -> None:
    spec = objects()["DaemonSet"]["spec"]

    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    assert pod()["hostNetwork"] is True
    assert {one["metadata"]["namespace"] for one in objects().values() if one["kind"] != "Namespace"} == {
        objects()["Namespace"]["metadata"]["name"]
    }


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_cannot_gain_rights(name: str) -> None:
    context = container(name)["securityContext"]

    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"]["drop"] == ["ALL"]


def volumes() -> dict[str, Any]:
    return {volume["name"]: volume for volume in pod()["volumes"]}
