"""deploy/kubernetes, except mirror.yaml, matches itself, the commands and the configuration."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.config.config import Config
from core.config.file import parse_config
from docker_torrents import CHECKS, parse_arguments
from jobs.cron import cron_trigger
from jobs.scheduled_jobs import JOBS
from tests.servers.process import require
from tests.unit.test_crontab import ENTRIES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OBJECTS: list[dict[str, Any]] = [
    found for path in sorted(FOLDER.glob("*.yaml")) for found in yaml.safe_load_all(path.read_text())
]
# Created by the operator, as nginx.yaml and docs/operations.md describe.
MADE_BY_HAND = {("ConfigMap", "docker-torrents-nginx"), ("Secret", "docker-torrents-tls")}


def name_of(found: dict[str, Any]) -> str:
    name: str = found["metadata"]["name"]
    return name


def object_of(kind: str, name: str) -> dict[str, Any]:
    [found] = [one for one in OBJECTS if (one["kind"], name_of(one)) == (kind, name)]
    return found


def template(found: dict[str, Any]) -> dict[str, Any]:
    spec = found["spec"]["jobTemplate"]["spec"] if found["kind"] == "CronJob" else found["spec"]
    template: dict[str, Any] = spec["template"]
    return template


WORKLOADS = [one for one in OBJECTS if one["kind"] in ("Deployment", "CronJob")]


def container(found: dict[str, Any]) -> dict[str, Any]:
    [only] = template(found)["spec"]["containers"]
    return dict(only)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The configuration, with its secrets in a folder of the test."""
    for name, value in object_of("Secret", "docker-torrents")["stringData"].items():
        (tmp_path / name).write_text(value)
    text = object_of("ConfigMap", "docker-torrents")["data"]["config.yaml"]
    return parse_config(text.replace("/secrets/", f"{tmp_path}/"), "config.yaml", {}, checks=CHECKS)


def test_every_secret_is_used(config: Config) -> None:
    text = object_of("ConfigMap", "docker-torrents")["data"]["config.yaml"]

    assert set(re.findall(r"/secrets/(\w+)", text)) == set(
        object_of("Secret", "docker-torrents")["stringData"]
    )


@pytest.mark.parametrize("found", WORKLOADS, ids=name_of)
def test_pods_mount_what_exists_and_cannot_gain_rights(found: dict[str, Any]) -> None:
    pod, only = template(found)["spec"], container(found)
    known = {(one["kind"], name_of(one)) for one in OBJECTS} | MADE_BY_HAND
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for volume in volumes.values():
        if "configMap" in volume:
            assert ("ConfigMap", volume["configMap"]["name"]) in known
        elif "secret" in volume:
            assert ("Secret", volume["secret"]["secretName"]) in known
        else:
            assert volume["emptyDir"] == {}
    assert {mount["name"] for mount in only["volumeMounts"]} == set(volumes)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert only["securityContext"]["allowPrivilegeEscalation"] is False
    assert only["securityContext"]["readOnlyRootFilesystem"] is True
    assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "memory" in only["resources"]["limits"]


def test_commands_images_and_folders(config: Config) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    commands = {}
    for found in WORKLOADS:
        only = container(found)
        if only["name"] == "nginx":
            continue
        arguments = parse_arguments(only["args"])
        mounted = {mount["mountPath"]: mount["name"] for mount in only["volumeMounts"]}
        assert only["command"] == ["docker_torrents"]
        assert only["image"] == f"registry.example.com/docker-torrents:{version}"
        assert mounted[str(arguments.config.parent)] == "config"
        assert mounted[str(config.application.state_dir)] == "state"
        commands[name_of(found)] = (arguments.command, getattr(arguments, "job", None))

    assert commands == {
        "docker-torrents-web": ("web", None),
        "docker-torrents-swarm": ("swarm", None),
        "docker-torrents-brewer": ("scheduler", None),
        "docker-torrents-release-locks": ("run", "release-locks"),
        "docker-torrents-scan-tags": ("run", "scan-tags"),
        "docker-torrents-prune": ("run", "prune"),
    }


def test_images_are_ours_or_nginx() -> None:
    images = set(re.findall(r"image: (\S+)", "".join(path.read_text() for path in FOLDER.glob("*.yaml"))))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]

    ours = f"registry.example.com/docker-torrents:{version}"
    page = (ROOT / "docs" / "operations.md").read_text()
    assert images == {ours, compose["nginx"]["image"]}
    assert set(re.findall(r"registry\.example\.com/docker-torrents:[\w.]+", page)) == {ours}


def test_jobs_are_run_by_brewers_or_at_the_times_of_the_crontab(config: Config) -> None:
    jobs = [job for job in JOBS.values() if job.enabled(config)]
    brewers = {job.name for job in jobs if job.settings(config.jobs).interval != 0}
    times = {next(job for job in JOBS if f"run {job} " in entry[6]): " ".join(entry[:5]) for entry in ENTRIES}
    cron = {}
    for found in OBJECTS:
        if found["kind"] == "CronJob":
            assert found["spec"]["concurrencyPolicy"] == "Forbid"
            assert cron_trigger(found["spec"]["schedule"])
            cron[container(found)["args"][-1]] = found["spec"]["schedule"]

    assert brewers == {"brew", "resolve-manifests"}
    assert cron == {job: when for job, when in times.items() if job not in brewers}


def test_ports_are_those_of_the_configuration(config: Config) -> None:
    ports = {
        "docker-torrents-web": config.application.port,
        "docker-torrents-swarm": config.application.swarm_port,
    }
    for name, port in ports.items():
        only, service = container(object_of("Deployment", name)), object_of("Service", name)["spec"]
        assert [(one["name"], one["containerPort"]) for one in only["ports"]] == [("http", port)]
        assert [(one["targetPort"], one["port"]) for one in service["ports"]] == [("http", port)]
        for probe in ("livenessProbe", "readinessProbe"):
            assert only[probe]["httpGet"] == {"port": "http", "path": "/ping"}


def test_prometheus_finds_the_ports_of_metrics(config: Config) -> None:
    ports = {
        "docker-torrents-web": config.application.port,
        "docker-torrents-swarm": config.application.swarm_port,
        "docker-torrents-brewer": config.application.metrics_port,
    }
    for name, port in ports.items():
        found = object_of("Deployment", name)
        assert template(found)["metadata"]["annotations"]["prometheus.io/port"] == str(port)
        assert port in [one["containerPort"] for one in container(found)["ports"]]


def test_services_and_deployments_select_their_pods() -> None:
    for found in OBJECTS:
        if found["kind"] == "Service":
            labels = template(object_of("Deployment", name_of(found)))["metadata"]["labels"]
            assert found["spec"]["selector"].items() <= labels.items()
        if found["kind"] == "Deployment":
            labels = template(found)["metadata"]["labels"]
            assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
        if found["kind"] != "Namespace":
            assert found["metadata"]["namespace"] == "docker-torrents"


def test_swarm_calls_are_answered_by_one_pod(config: Config) -> None:
    swarm = object_of("Deployment", "docker-torrents-swarm")["spec"]

    assert (swarm["replicas"], swarm["strategy"]) == (1, {"type": "Recreate"})


def test_nginx_accepts_its_configuration_and_routes_to_the_services(tmp_path: Path, config: Config) -> None:
    nginx = container(object_of("Deployment", "docker-torrents-nginx"))
    shell, option, script = nginx["command"]
    made = script.partition(" && exec ")[0].replace("/etc/nginx/conf.d/default.conf", str(tmp_path / "made"))
    made = made.replace("/deploy/nginx.conf", str(ROOT / "deploy" / "nginx.conf"))
    subprocess.run([shell, option, made.replace("/tls/", f"{tmp_path}/")], check=True)
    text = (tmp_path / "made").read_text()
    servers = re.findall(r"^ +server (\S+);", text, re.MULTILINE)

    assert servers == [
        f"docker-torrents-web:{config.application.port}",
        f"docker-torrents-swarm:{config.application.swarm_port}",
        config.docker_registry.host,
    ]
    assert [f"listen {port['containerPort']} ssl" in text for port in nginx["ports"]] == [True]
    binary = require("nginx", "nginx")
    key = [
        require("openssl", "openssl"),
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=registry.example.com",
    ]
    certificate = ["-keyout", tmp_path / "tls.key", "-out", tmp_path / "tls.crt"]
    subprocess.run([*key, *certificate], check=True, capture_output=True)
    for server in servers:
        text = text.replace(server, "127.0.0.1:1")
    (tmp_path / "site").write_text(text.replace("/var/log/nginx", str(tmp_path)))
    main = f"pid {tmp_path}/pid; events {{}} http {{ include {tmp_path}/site; }}"
    (tmp_path / "nginx.conf").write_text(main)
    command = [binary, "-t", "-c", tmp_path / "nginx.conf", "-e", tmp_path / "error.log"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stderr


def test_commands_in_the_docs_name_its_deployments() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    named = set(re.findall(r"(?:deploy|deployment)/(docker-torrents-\w+)", page))

    assert len(named) > 1
    assert named <= {name_of(found) for found in OBJECTS if found["kind"] == "Deployment"}


def test_objects_created_by_hand_are_documented() -> None:
    pages = (FOLDER / "nginx.yaml").read_text() + (ROOT / "docs" / "operations.md").read_text()
    for kind, name in MADE_BY_HAND:
        assert pages.count(f"create {'configmap' if kind == 'ConfigMap' else 'secret tls'} {name}") == 2
