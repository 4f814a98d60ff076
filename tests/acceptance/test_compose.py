"""The services of deploy/compose.yaml without containers: only addresses and folders are changed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import sqlalchemy as sa
import yaml

from tests.constants import AMPLE_WAITS_OF_MIRRORS
from tests.installation import PROGRAM
from tests.nginx_front import nginx_front
from tests.program import ROOT, program_with
from tests.servers.layers import layer_bytes
from tests.servers.opentracker import USER as OPENTRACKER_USER
from tests.servers.opentracker import Tracker
from tests.servers.postgres import start_postgres
from tests.servers.process import ServerProcess, child_environment, free_port, listening, require
from tests.servers.push import push_image
from tests.servers.waiting import comes_true

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose"
SERVICES: dict[str, Any] = yaml.safe_load((COMPOSE.parent / "compose.yaml").read_text())["services"]
ENVIRONMENT = child_environment({"DB_PASSWORD": "not verified here"})
LAYERS = [layer_bytes(5_000_000, 1), layer_bytes(2_000_000, 2)]


@dataclass
class Stack:
    """The running services: a port for each, and their files."""

    folder: Path
    ports: dict[str, int]
    files: dict[str, Path]
    processes: dict[str, ServerProcess] = field(default_factory=dict)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def command(self, name: str) -> list[str | Path]:
        """Return the command of a service with its configuration."""
        program, *words = SERVICES[name]["command"]
        assert program == PROGRAM.name
        # A mirror that waits long for torrents: the machine may be busy.
        started = program_with(AMPLE_WAITS_OF_MIRRORS) if words == ["mirror"] else [PROGRAM]
        return [*started, "-c", self.files[name], *words]

    def process(
        self, name: str, command: list[str | Path] | None = None, user: str | None = None
    ) -> ServerProcess:
        ready = listening(self.ports[name]) if name in self.ports else lambda: True
        log = self.folder / f"{name}.log"
        return ServerProcess(
            command or self.command(name), ready=ready, log=log, env=ENVIRONMENT, cwd=ROOT, user=user
        )

    def blob(self, mirror: str, digest: str) -> bytes:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(f"{self.url(mirror)}/v2/try/app/blobs/{digest}", timeout=60)
        answer.raise_for_status()
        return answer.content

    def status(self, mirror: str) -> dict[str, Any]:
        status: dict[str, Any] = requests.get(self.url(mirror) + "/v0/mirror/status", timeout=60).json()
        return status

    def seeding(self, mirror: str) -> list[str]:
        """Return the layers that a mirror seeds."""
        return [one["digest"] for one in self.status(mirror)["downloads"] if one["state"] == "seeding"]


def written(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def configurations(folder: Path, ports: dict[str, int]) -> dict[str, Path]:
    """Return the configurations of deploy/compose with the addresses of this test."""

    def shipped(name: str) -> dict[str, Any]:
        text = (COMPOSE / name).read_text()
        for service in ("registry:5000", "web:10050", "tracker:6969"):
            text = text.replace(f"://{service}", f"://127.0.0.1:{ports[service.partition(':')[0]]}")
        loaded: dict[str, Any] = yaml.safe_load(
            text.replace("http://nginx", f"http://127.0.0.1:{ports['nginx']}")
        )
        return loaded

    registry, service = shipped("registry.yml"), shipped("config.yaml")
    registry["http"]["addr"] = f"127.0.0.1:{ports['registry']}"
    registry["storage"]["filesystem"]["rootdirectory"] = str(folder / "storage")
    service["application"] |= {
        "host": "127.0.0.1",
        "port": ports["web"],
        "state_dir": str(folder / "state"),
        "trusted_proxies": ["127.0.0.1"],
    }
    service["docker_registry"]["host"] = f"127.0.0.1:{ports['registry']}"
    service["db"] |= {"host": "127.0.0.1", "port": ports["database"]}
    service["jobs"]["publish-whitelist"]["file"] = str(folder / "tracker" / "whitelist.txt")
    service_file = written(folder / "config.yaml", service)
    files = dict.fromkeys(("setup", "web", "brewer"), service_file)
    for name in ("mirror1", "mirror2"):
        mirror = shipped("mirror.yaml")
        mirror["docker_registry"]["host"] = f"127.0.0.1:{ports['nginx']}"
        mirror["mirror"] |= {
            "host": "127.0.0.1",
            "port": ports[name],
            "peer_host": "127.0.0.1",
            "peer_port": free_port(),
            "cache_dir": str(folder / name),
            "keep_free": 0,
        }
        files[name] = written(folder / f"{name}.yaml", mirror)
    return {**files, "registry": written(folder / "registry.yml", registry)}


@contextmanager
def running(folder: Path) -> Iterator[Stack]:
    ports = {name: free_port() for name in SERVICES if name not in ("setup", "brewer")}
    with ExitStack() as stack:
        (folder / "postgres").mkdir()
        database = stack.enter_context(start_postgres(folder / "postgres"))
        ports["database"] = database.port
        user, name = (SERVICES["database"]["environment"][f"POSTGRES_{key}"] for key in ("USER", "DB"))
        database.execute(f"CREATE USER {user}")
        database.execute(f"CREATE DATABASE {name} OWNER {user}")
        services = Stack(folder, ports, configurations(folder, ports))

        def start(name: str, command: list[str | Path] | None = None, user: str | None = None) -> None:
            process = services.process(name, command, user)
            services.processes[name] = process
            stack.callback(process.stop)
            process.start()

        start(
            "registry", [require("docker-registry", "docker-registry"), "serve", services.files["registry"]]
        )
        (folder / "tracker").mkdir()
        require("opentracker", "opentracker")
        tracker = ["sh", COMPOSE / "tracker.sh", folder / "tracker", str(ports["tracker"]), "127.0.0.1"]
        (folder / "tracker").chmod(0o777)
        start("tracker", tracker, OPENTRACKER_USER)
        subprocess.run(
            services.command("setup"), env=ENVIRONMENT, check=True, capture_output=True, timeout=60
        )
        start("web")
        start("brewer")
        front = nginx_front(
            folder / "nginx",
            registry=f"127.0.0.1:{ports['registry']}",
            app=f"127.0.0.1:{ports['web']}",
            port=ports["nginx"],
        )
        stack.enter_context(front)
        start("mirror1")
        start("mirror2")
        yield services


def test_a_push_is_brewed_announced_and_pulled_from_one_mirror_by_the_other(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        image = push_image(stack.url("nginx"), "try/app", "latest", LAYERS)

        ids: list[str] = []

        def has_ids() -> bool:
            answer = requests.get(stack.url("nginx") + "/v2/try/app/manifests/latest", timeout=60)
            ids[:] = [layer["rbtorrent_id"] for layer in answer.json()["layers"] if "rbtorrent_id" in layer]
            return len(ids) == len(LAYERS)

        assert comes_true(has_ids)
        whitelist = tmp_path / "tracker" / "whitelist.txt"
        hashes = {rbtorrent_id.removeprefix("rbtorrent:") for rbtorrent_id in ids}
        assert comes_true(lambda: set(whitelist.read_text().split()) == hashes)
        tracker = Tracker("127.0.0.1", stack.ports["tracker"], whitelist, stack.processes["tracker"])
        assert comes_true(lambda: all(map(tracker.serves, hashes)))

        for mirror in ("mirror1", "mirror2"):
            for layer, data in zip(image.layers, LAYERS, strict=True):
                assert stack.blob(mirror, layer.digest) == data
            assert comes_true(lambda mirror=mirror: len(stack.seeding(mirror)) == len(LAYERS))  # type: ignore[misc]
        assert stack.status("mirror1")["origins"]["peers"] == 0
        assert stack.status("mirror2")["origins"]["peers"] > 0
        engine = sa.create_engine(
            f"postgresql+psycopg2://torrents@127.0.0.1:{stack.ports['database']}/torrents"
        )
        with engine.connect() as connection:
            brewed = connection.scalar(sa.text("SELECT count(*) FROM rbtorrent_mapping WHERE brewed > 0"))
        engine.dispose()
        assert brewed == len(LAYERS)
