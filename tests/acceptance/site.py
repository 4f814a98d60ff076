"""A registry with docker-torrents on one machine, and mirrors with real engines on others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.acceptance.guarded_registry import (
    SCOPE,
    GuardedRegistry,
    Kind,
    Pushed,
    push_all,
    start_guarded_registry,
)
from tests.acceptance.through_mirror import ThroughMirror
from tests.installation import Installation
from tests.mirror_process import MirrorProcess, start_mirror
from tests.netns import Machine, Network
from tests.nginx_front import nginx_front
from tests.servers.certificate import certificate
from tests.servers.dockerd import start_dockerd
from tests.servers.nginx import Nginx
from tests.servers.process import ServerProcess, free_port, listening

GIVEN_UP = 499
"""What nginx logs where the client hangs up before the answer."""


@dataclass(frozen=True)
class Site:
    """The servers on the registry's machine. `netloc` is the registry's name for engines."""

    machine: Machine
    kind: Kind
    guarded: GuardedRegistry
    pushed: Mapping[str, Pushed]
    netloc: str
    certificate: Path
    nginx: Nginx
    web: ServerProcess

    def sent(self, digest: str) -> int:
        """Return how many bytes of a layer the registry has sent."""
        return self.machine.call(self.guarded.registry.sent, digest)

    def asked(self, digest: str) -> int:
        """Return how often mirrors were allowed to serve a layer to a caller: by HEAD, or with its torrent."""
        return sum(
            request.status == 200
            and request.path.endswith(digest)
            and (request.method == "HEAD" or "/v0/torrents/" in request.path)
            for request in self.nginx.requests()
        )

    def given_up(self, digest: str) -> int:
        """How often mirrors have not waited for a layer's torrent, but asked the registry instead."""
        return sum(
            request.status == GIVEN_UP and request.path.endswith(digest) for request in self.nginx.requests()
        )

    def heads(self, digest: str) -> int:
        """Return how many HEAD requests for a layer the registry has answered with 200."""
        requests = self.machine.call(self.guarded.registry.requests)
        return sum(
            method == "HEAD" and status == 200 and path.endswith(digest) for method, path, status in requests
        )


@dataclass(frozen=True)
class Node:
    """A machine with a mirror, and engines that pull through it."""

    machine: Machine
    mirror: MirrorProcess
    engines: list[ThroughMirror]


@contextmanager
def start_site(
    machine: Machine, kind: Kind, folder: Path, sizes: Sequence[int], tags: Sequence[str]
) -> Iterator[Site]:
    """Run a registry of this kind on `machine`, with its images brewed; see push_all for `sizes` and `tags`.

    nginx stands in front of it and of two workers of the web app, with TLS.
    """
    web, front = free_port(), free_port()
    netloc = f"{machine.address}:{front}"
    pem = certificate(folder, machine.address)
    with ExitStack() as stack:
        enter = stack.enter_context
        guarded = machine.call(enter, start_guarded_registry(kind, folder, machine.address))
        pushed = machine.call(push_all, guarded, sizes, tags)
        brewer = {}
        if guarded.login is not None:
            brewer = {"brew_user": guarded.login.user, "brew_password": guarded.login.password}
        installation = Installation(
            folder / "app",
            guarded.registry,
            application={"port": web, "public_url": f"https://{netloc}"},
            brewer=brewer,
        )
        machine.call(installation.run, "backfill", "repository", SCOPE)
        machine.call(installation.run, "run", "brew")
        process = installation.process("web", "--workers=2", ready=listening(web), name="web")
        machine.call(process.start)
        stack.callback(process.stop)
        front_server = nginx_front(
            folder / "nginx",
            registry=guarded.registry.netloc,
            app=f"127.0.0.1:{web}",
            host=machine.address,
            port=front,
            certificate=pem,
        )
        nginx = machine.call(enter, front_server)
        yield Site(machine, kind, guarded, pushed, netloc, pem, nginx, process)


@contextmanager
def start_nodes(
    network: Network, site: Site, machines: Sequence[Sequence[str]], folder: Path
) -> Iterator[list[Node]]:
    """Add machines with these engines, each with a mirror of the site's registry."""
    with ExitStack() as stack:
        begun, owned = [], []
        for number, engines in enumerate(machines):
            machine = network.connect()
            own = stack.enter_context(ExitStack())
            # podman and dockerd accept only short paths.
            home = Path(own.enter_context(TemporaryDirectory(prefix="node-")))
            owned.append((machine, own))
            begun.append(
                machine.begin(_start_node, machine, site, engines, own, folder / f"node{number}", home)
            )
        try:
            yield [node.result() for node in begun]
        finally:
            ended = [machine.begin(own.close) for machine, own in owned]
            for one in ended:
                one.result()


def _start_node(
    machine: Machine, site: Site, engines: Sequence[str], own: ExitStack, folder: Path, home: Path
) -> Node:
    tls = {"docker_registry": {"proto": "https"}, "tls": {"ca_file": str(site.certificate)}}
    mirror = own.enter_context(start_mirror(folder, site.netloc, sections=tls, peer_host=machine.address))
    needs_daemon = {"docker", "containerd"} & set(engines)
    daemon = own.enter_context(start_dockerd(home / "d")) if needs_daemon else None
    through = []
    for name in engines:
        (home / name).mkdir()
        through.append(ThroughMirror(name, mirror, SCOPE, home / name, daemon))
    return Node(machine, mirror, through)
