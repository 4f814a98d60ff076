"""Unmodified container engines on several machines pull through mirrors: public and private images, by tag and by
digest. The registry sends each layer about once, to all of them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.acceptance.engines import PullFailed
from tests.acceptance.guarded_registry import ENGINES, SCOPE, TAGS, Kind, push_all, start_guarded_registry
from tests.acceptance.site import Node, Site, start_nodes, start_site
from tests.acceptance.through_mirror import ThroughMirror
from tests.mirror_process import start_mirror
from tests.netns import Network, shape, start_network
from tests.servers.push import Descriptor
from tests.servers.waiting import comes_true

MIB = 1024 * 1024
MACHINES: dict[Kind, list[list[str]]] = {
    "token": [[engine] for engine in [*ENGINES, "podman", "skopeo", "skopeo", "skopeo"]],
    "htpasswd": [["docker", "containerd"], ["podman", "skopeo"]],
    "public": [["docker", "containerd"], ["podman", "skopeo"]],
}
"""The engines of each machine."""
PULLED: dict[Kind, list[str]] = {
    "token": TAGS,
    "htpasswd": ["multi-docker", "multi-oci"],
    "public": ["multi-docker", "multi-oci"],
}
LATER = "single-later"
"""An image that no engine pulls."""
BROKEN = (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    try:
        with start_network() as network:
            yield network
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=MACHINES)
def site(
    request: pytest.FixtureRequest, network: Network, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    kind: Kind = request.param
    # Two layers that are large enough for the swarm, and one that is not.
    sizes, folder = [3 * MIB, 3 * MIB // 2, 1000], tmp_path_factory.mktemp(kind)
    with start_site(network.connect(), kind, folder, sizes, [*PULLED[kind], LATER]) as site:
        yield site


@pytest.fixture(scope="module")
def nodes(network: Network, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    with start_nodes(network, site, MACHINES[site.kind], tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes


def layers(site: Site) -> list[Descriptor]:
    """Return the layers of the images that engines pull."""
    return [layer for tag in PULLED[site.kind] for image in site.pushed[tag].images for layer in image.layers]


def pull_together(site: Site, nodes: list[Node], references: list[str]) -> list[list[str]]:
    """Pull images with all engines at once, one after the other with each. Return the digests that each recorded."""

    def pull(engine: ThroughMirror) -> list[str]:
        return [engine.pull(reference, site.guarded.login) for reference in references]

    pulls = [node.machine.begin(pull, engine) for node in nodes for engine in node.engines]
    return [pulled.result() for pulled in pulls]


@dataclass(frozen=True)
class Pulled:
    """What came of all engines pulling the images by tag, then by digest."""

    by_tag: list[list[str]]
    by_digest: list[list[str]]
    asked: list[int]
    """For each layer, how often mirrors were allowed to serve it while engines pulled by tag."""
    heads: list[int]
    """For each layer that no web seed serves, how often the registry allowed that meanwhile."""
    minutes: int
    """Minutes that have begun meanwhile: so long an answer is remembered."""
    sent_by_tag: int
    """Bytes of layers that left the registry."""
    sent_by_digest: int


@pytest.fixture(scope="module")
def pulled(site: Site, nodes: list[Node]) -> Pulled:
    small = [layer.digest for layer in layers(site) if layer.size < MIB]

    def sent() -> int:
        return sum(site.sent(layer.digest) for layer in layers(site))

    def heads() -> list[int]:
        return [site.heads(digest) - site.given_up(digest) for digest in small]

    heads_before, sent_before, began = heads(), sent(), time.monotonic()
    by_tag = pull_together(site, nodes, [f":{tag}" for tag in PULLED[site.kind]])
    asked = [site.asked(layer.digest) for layer in layers(site)]
    minutes = 1 + int(time.monotonic() - began) // 60
    heads_of_pulls = [after - before for after, before in zip(heads(), heads_before, strict=True)]
    # What a pull has begun is in the cache.
    assert comes_true(lambda: all(node.machine.call(node.mirror.is_idle) for node in nodes), 120)
    sent_between = sent()
    by_digest = pull_together(site, nodes, [f"@{site.pushed[tag].digest}" for tag in PULLED[site.kind]])
    return Pulled(
        by_tag, by_digest, asked, heads_of_pulls, minutes, sent_between - sent_before, sent() - sent_between
    )


@pytest.mark.timeout(600)
def test_engines_record_the_registrys_digests_by_tag_and_by_digest(
    site: Site, nodes: list[Node], pulled: Pulled
) -> None:
    digests = [site.pushed[tag].digest for tag in PULLED[site.kind]]
    engines = sum(len(node.engines) for node in nodes)
    assert pulled.by_tag == [digests] * engines
    assert pulled.by_digest == [digests] * engines
    for node in nodes:
        assert node.machine.call(node.mirror.layer_requests) > 0, "no layer was requested from the mirror"


def test_each_layer_leaves_the_registry_about_once(site: Site, pulled: Pulled) -> None:
    # About once: nodes that start together may fetch the same chunk.
    assert pulled.sent_by_tag <= 1.5 * sum(layer.size for layer in layers(site))
    # What is cached comes from this machine, by whatever name it is pulled.
    assert pulled.sent_by_digest == 0


# Engines may fetch a second token, which is another caller to the registry.
@pytest.mark.parametrize("site", ["htpasswd", "public"], indirect=True)
def test_the_registry_authorizes_each_machine_at_most_once_for_a_layer(
    nodes: list[Node], pulled: Pulled
) -> None:
    assert min(pulled.asked) > 0
    assert max(*pulled.asked, *pulled.heads) <= len(nodes) * pulled.minutes


@pytest.mark.parametrize("site", ["token", "htpasswd"], indirect=True)
def test_without_the_password_no_engine_pulls_a_cached_image(
    site: Site, nodes: list[Node], pulled: Pulled
) -> None:
    tag = f":{PULLED[site.kind][0]}"
    pulls = [node.machine.begin(engine.pull, tag, None) for node in nodes for engine in node.engines]
    for pull in pulls:
        with pytest.raises(
            PullFailed, match=r"(?i)unauthorized|authentication required|no basic auth|denied"
        ):
            pull.result()


@pytest.mark.parametrize("site", ["token"], indirect=True)
def test_a_killed_mirror_and_a_restarted_service_cost_the_others_little(
    site: Site, nodes: list[Node], pulled: Pulled
) -> None:
    layer = site.pushed[LATER].images[0].layers[0]

    def pull(node: Node) -> requests.Response:
        return node.mirror.get(f"/v2/{SCOPE}/blobs/{layer.digest}", auth=site.guarded.auth)

    def done(node: Node) -> int:
        downloads = node.machine.call(node.mirror.status)["downloads"]
        return sum(int(one["done"]) for one in downloads if one["digest"] == layer.digest)

    def is_whole(answer: requests.Response) -> bool:
        return f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == layer.digest

    killed, *others = nodes[-3:]
    before = site.sent(layer.digest)
    site.machine.run(*shape("eth0", 1))  # the layer takes it 24 s
    broken, *whole = [node.machine.begin(pull, node) for node in (killed, *others)]
    assert comes_true(lambda: all(done(node) >= MIB // 2 for node in (killed, *others)))
    had = done(killed)
    killed.mirror.process.kill()
    site.web.kill()
    site.machine.call(site.web.start)
    site.machine.run("tc", "qdisc", "del", "dev", "eth0", "root")

    with pytest.raises(BROKEN):
        broken.result()
    assert all(is_whole(answer.result()) for answer in whole)
    assert site.sent(layer.digest) - before <= 2 * layer.size

    killed.machine.call(killed.mirror.process.start)
    assert is_whole(killed.machine.call(pull, killed))
    assert sum(killed.machine.call(killed.mirror.received).values()) <= layer.size - had // 2


def test_an_image_larger_than_the_cache_is_pulled(tmp_path: Path) -> None:
    size = 3_000_000  # one of two layers of 2 MB is cached
    with start_guarded_registry("public", tmp_path) as guarded:
        pushed = push_all(guarded, [2_000_000], ["multi-oci"])["multi-oci"]
        with start_mirror(tmp_path / "mirror", guarded.registry, cache_size=size) as mirror:
            skopeo = ThroughMirror("skopeo", mirror, SCOPE, tmp_path)
            assert skopeo.pull(":multi-oci", None) == pushed.digest
            assert 0 < mirror.status()["cache"]["bytes"] <= size
