"""Engines on several machines pull one image at once: the registry sends each layer about once in total."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import requests

from tests.acceptance.guarded_registry import SCOPE
from tests.acceptance.site import Node, Site, start_nodes, start_site
from tests.netns import Network, shape, start_network
from tests.servers.push import Descriptor
from tests.servers.waiting import comes_true

MIB = 1024 * 1024
ENGINES_AT_ONCE = ["docker", "containerd", "podman", "podman", "skopeo", "skopeo", "skopeo", "skopeo"]
IMAGE, OTHER_IMAGE = "multi-oci", "single-docker"
BROKEN = (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    try:
        with start_network() as network:
            yield network
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def site(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    sizes, tags = [5 * MIB, 3 * MIB, 1000], [IMAGE, OTHER_IMAGE]
    with start_site(network.connect(), "token", tmp_path_factory.mktemp("site"), sizes, tags) as site:
        yield site


@pytest.fixture(scope="module")
def nodes(network: Network, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    with start_nodes(network, site, ENGINES_AT_ONCE, tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes


def large_layers(site: Site, tag: str) -> list[Descriptor]:
    """The layers of all platforms that are large enough for the swarm."""
    layers = [layer for image in site.pushed[tag].images for layer in image.layers]
    return [layer for layer in layers if layer.size >= MIB]


def test_for_engines_that_pull_at_once_each_layer_is_sent_about_once(site: Site, nodes: list[Node]) -> None:
    digest, login, layers = site.pushed[IMAGE].digest, site.guarded.login, large_layers(site, IMAGE)

    def sent() -> list[int]:
        return [site.sent(layer.digest) for layer in layers]

    def judged() -> list[int]:
        return [site.verdicts(layer.digest) for layer in layers]

    sent_before = sent()
    pulls = [node.machine.begin(node.engine.pull, f":{IMAGE}", login) for node in nodes]
    assert [pull.result() for pull in pulls] == [digest] * len(nodes)
    sent_after = sent()
    # About once. On a busy machine readers that wait for 5 s get a part from the registry.
    assert sum(sent_after) - sum(sent_before) <= 1.5 * sum(layer.size for layer in layers)
    assert min(judged()) > 0
    assert max(judged()) <= len(nodes)

    # Cached layers come from this machine, under any name.
    pulls = [node.machine.begin(node.engine.pull, f"@{digest}", login) for node in nodes]
    assert [pull.result() for pull in pulls] == [digest] * len(nodes)
    assert sent() == sent_after


def test_other_mirrors_finish_despite_a_killed_mirror_and_a_restarted_service(
    site: Site, nodes: list[Node]
) -> None:
    layer = large_layers(site, OTHER_IMAGE)[0]

    def pull(node: Node) -> requests.Response:
        return node.mirror.get(f"/v2/{SCOPE}/blobs/{layer.digest}", auth=site.guarded.auth)

    def done(node: Node) -> int:
        downloads = node.machine.call(node.mirror.status)["downloads"]
        return sum(int(one["done"]) for one in downloads if one["digest"] == layer.digest)

    def is_whole(answer: requests.Response) -> bool:
        return f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == layer.digest

    killed, *others = nodes[-3:]
    before = site.sent(layer.digest)
    site.machine.run(*shape("eth0", 2))  # it needs 20 s for the layer
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
