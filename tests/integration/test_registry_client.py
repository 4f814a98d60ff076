"""The registry client against a real registry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.digest import Digest
from core.errors import BadAnswer, InvalidName, NotFound, Refused, Unavailable
from core.manifests.manifest import Image, Index, parse_manifest
from core.manifests.media_types import DOCKER_MANIFEST
from core.registry.client import RegistryClient
from tests.registry_clients import client_of, read_blob
from tests.servers.layers import layer_bytes
from tests.servers.process import free_port
from tests.servers.push import INDEX, MANIFEST, Media, push_blob, push_image, push_index, push_manifest
from tests.servers.registry import Registry, start_registry

NOWHERE = Digest("0" * 64)


@pytest.fixture
def client(registry: Registry) -> Iterator[RegistryClient]:
    with client_of(registry.netloc) as running:
        yield running


class TestAManifest:
    @pytest.mark.parametrize("media", ["docker", "oci"])
    def test_of_an_image_is_fetched_by_tag_and_by_digest(
        self, registry: Registry, scope: str, client: RegistryClient, media: Media
    ) -> None:
        image = push_image(registry, scope, "latest", [b"layer one", b"layer two"], media=media)
        for reference in ("latest", Digest.parse(image.digest)):
            fetched = client.fetch_manifest(scope, reference)
            assert fetched.body == image.manifest
            assert str(fetched.digest) == image.digest
            assert fetched.media_type == MANIFEST[media]
        parsed = parse_manifest(fetched.body, fetched.media_type)
        assert isinstance(parsed, Image)
        assert [str(layer.digest) for layer in parsed.layers] == [one.digest for one in image.layers]

    @pytest.mark.parametrize("media", ["docker", "oci"])
    def test_of_several_platforms_is_fetched_as_a_list(
        self, registry: Registry, scope: str, client: RegistryClient, media: Media
    ) -> None:
        images = [
            push_image(registry, scope, None, [platform.encode()], media=media, platform=platform)
            for platform in ("linux/amd64", "linux/arm64/v8")
        ]
        pushed = push_index(registry, scope, "multi", [one.descriptor for one in images], media=media)
        for reference in ("multi", Digest.parse(pushed.digest)):
            fetched = client.fetch_manifest(scope, reference)
            assert fetched.body == pushed.manifest
            assert fetched.media_type == INDEX[media]
        parsed = parse_manifest(fetched.body, fetched.media_type)
        assert isinstance(parsed, Index)
        assert [str(child.digest) for child in parsed.children] == [one.digest for one in images]
        assert [str(child.platform) for child in parsed.children] == ["linux/amd64", "linux/arm64/v8"]

    def test_of_ten_thousand_layers_is_fetched_whole(
        self, registry: Registry, scope: str, client: RegistryClient
    ) -> None:
        layer = push_blob(registry, scope, b"one and the same")
        config = push_blob(registry, scope, b"{}")
        body = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": DOCKER_MANIFEST,
                "config": config.as_json(),
                "layers": [layer.as_json()] * 10_000,
            }
        ).encode()
        push_manifest(registry, scope, "huge", body, DOCKER_MANIFEST)
        fetched = client.fetch_manifest(scope, "huge")
        parsed = parse_manifest(fetched.body, fetched.media_type)
        assert isinstance(parsed, Image)
        assert len(parsed.layers) == 10_000

    def test_that_was_damaged_in_the_storage_is_refused(
        self, registry: Registry, scope: str, client: RegistryClient
    ) -> None:
        # With content of its own: equal blobs are stored once, for all tests.
        image = push_image(registry, scope, "latest", [scope.encode()])
        registry.blob_file(image.digest).write_bytes(image.manifest + b" ")
        for reference in ("latest", Digest.parse(image.digest)):
            with pytest.raises(BadAnswer, match="have digest"):
                client.fetch_manifest(scope, reference)


class TestATag:
    def test_is_resolved_to_a_digest_by_one_head(
        self, registry: Registry, scope: str, client: RegistryClient
    ) -> None:
        image = push_image(registry, scope, "latest", [b"layer"], media="oci")
        before = len(registry.requests())
        assert str(client.head_manifest(scope, "latest")) == image.digest
        path = f"/v2/{scope}/manifests/latest"
        assert registry.requests()[before:] == [("HEAD", path, 200)]

    def test_may_be_missing(self, registry: Registry, scope: str, client: RegistryClient) -> None:
        with pytest.raises(NotFound, match=f"{scope}:latest"):
            client.head_manifest(scope, "latest")
        push_image(registry, scope, "latest", [b"layer"])
        with pytest.raises(NotFound, match=f"{scope}:other"):
            client.fetch_manifest(scope, "other")
        with pytest.raises(NotFound, match=f"{scope}@sha256:000"):
            client.fetch_manifest(scope, NOWHERE)


class TestLists:
    def test_all_tags_of_a_repository(self, registry: Registry, scope: str, client: RegistryClient) -> None:
        for tag in ("latest", "1.0", "v2_rc-1"):
            push_image(registry, scope, tag, [b"layer"])
        assert sorted(client.list_tags(scope)) == ["1.0", "latest", "v2_rc-1"]

    def test_a_missing_repository_has_no_list(self, client: RegistryClient) -> None:
        with pytest.raises(NotFound, match="repository no/such"):
            list(client.list_tags("no/such"))

    def test_all_repositories_page_by_page(self, tmp_path: Path) -> None:
        names = [f"team/app-{number:04d}" for number in range(2_050)]
        with start_registry(tmp_path) as registry, client_of(registry.netloc) as client:
            for name in names:
                (registry.storage / "docker/registry/v2/repositories" / name / "_layers").mkdir(parents=True)
            assert list(client.list_repositories()) == names
            pages = [path for _, path, _ in registry.requests() if path.startswith("/v2/_catalog")]
        assert len(pages) == 3


class TestABlob:
    CONTENT = layer_bytes(300_000)

    @pytest.fixture
    def digest(self, registry: Registry, scope: str) -> Digest:
        return Digest.parse(push_blob(registry, scope, self.CONTENT).digest)

    def test_is_read_whole(self, scope: str, digest: Digest, client: RegistryClient) -> None:
        stream = client.open_blob(scope, digest)
        assert stream.size == len(self.CONTENT)
        assert read_blob(stream) == self.CONTENT

    @pytest.mark.parametrize(
        ("offset", "length"),
        [(0, 1), (0, 100_000), (1, None), (100_000, 7), (299_999, None), (299_000, 9_999)],
    )
    def test_is_read_in_part(
        self, scope: str, digest: Digest, client: RegistryClient, offset: int, length: int | None
    ) -> None:
        stream = client.open_blob(scope, digest, offset, length)
        assert stream.size == len(self.CONTENT)
        end = None if length is None else offset + length
        assert read_blob(stream) == self.CONTENT[offset:end]

    def test_has_an_end(self, scope: str, digest: Digest, client: RegistryClient) -> None:
        with pytest.raises(Refused) as caught:
            client.open_blob(scope, digest, len(self.CONTENT))
        assert caught.value.status == 416

    @pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, 0), (5, -5)])
    def test_has_no_invalid_parts(
        self, scope: str, digest: Digest, client: RegistryClient, offset: int, length: int
    ) -> None:
        with pytest.raises(ValueError, match="no range"):
            client.open_blob(scope, digest, offset, length)

    def test_has_a_size(self, scope: str, digest: Digest, client: RegistryClient) -> None:
        assert client.blob_size(scope, digest) == len(self.CONTENT)

    def test_may_be_of_no_bytes(self, registry: Registry, scope: str, client: RegistryClient) -> None:
        digest = Digest.parse(push_blob(registry, scope, b"").digest)
        assert client.blob_size(scope, digest) == 0
        assert read_blob(client.open_blob(scope, digest)) == b""

    def test_may_be_missing(
        self, registry: Registry, scope: str, digest: Digest, client: RegistryClient
    ) -> None:
        for ask in (client.open_blob, client.blob_size):
            with pytest.raises(NotFound, match=f"blob {NOWHERE} in {scope}"):
                ask(scope, NOWHERE)
            with pytest.raises(NotFound):  # a blob belongs to a repository
                ask("no/such", digest)
        lost = push_blob(registry, scope, scope.encode()).digest
        registry.blob_file(lost).unlink()
        with pytest.raises(NotFound):
            client.open_blob(scope, Digest.parse(lost))


class TestNames:
    @pytest.mark.parametrize(
        "scope", ["", "..", "a/../b", "a//b", "/a", "A", "a?b", "a%2fb", "a\0b", "a b", "a" * 256, "a#b"]
    )
    def test_that_are_no_repository_are_never_requested(
        self, registry: Registry, client: RegistryClient, scope: str
    ) -> None:
        before = len(registry.requests())
        for ask in (
            lambda: client.fetch_manifest(scope, "latest"),
            lambda: client.head_manifest(scope, "latest"),
            lambda: client.list_tags(scope),
            lambda: client.open_blob(scope, NOWHERE),
            lambda: client.blob_size(scope, NOWHERE),
            lambda: client.forward("GET", client.urls.manifest(scope, "latest"), {}),
            lambda: client.forward("HEAD", client.urls.blob(scope, NOWHERE), {}),
        ):
            with pytest.raises(InvalidName):
                ask()
        assert len(registry.requests()) == before

    @pytest.mark.parametrize("tag", ["", "..", "a/b", "a:b", "sha256:" + "0" * 64, "a?b", "a" * 129, "ä"])
    def test_that_are_no_tag_are_never_requested(self, client: RegistryClient, tag: str) -> None:
        with pytest.raises(InvalidName):
            client.fetch_manifest("a/b", tag)


class TestTheRegistry:
    def test_answers_the_operator(self, registry: Registry, client: RegistryClient) -> None:
        assert client.ping() == f"{registry.url}/v2/ answers (registry/2.0)"

    def test_may_be_missing(self) -> None:
        with client_of(f"127.0.0.1:{free_port()}") as client:
            for ask in (
                client.ping,
                lambda: client.fetch_manifest("a", "b"),
                client.list_repositories().__next__,
            ):
                with pytest.raises(Unavailable, match="Connection refused"):
                    ask()

    def test_may_be_at_the_paths_of_the_templates(self, registry: Registry, scope: str) -> None:
        image = push_image(registry, scope, "latest", [b"layer"])
        with client_of(
            "nowhere.invalid",
            image_resolve_template=f"http://{registry.netloc}/v2/{{scope}}/manifests/{{tag}}",
            hash_resolve_template=f"{{proto}}://{registry.netloc}/v2/{{scope}}/blobs/sha256:{{blob_sum}}",
            tags_resolve_template=f"{{proto}}://{registry.netloc}/v2/{{scope}}/tags/list?own=1",
            blob_sum_prefix="",
        ) as client:
            assert client.fetch_manifest(scope, "latest").body == image.manifest
            assert list(client.list_tags(scope)) == ["latest"]
            digest = Digest(hashlib.sha256(b"layer").hexdigest())
            assert read_blob(client.open_blob(scope, digest)) == b"layer"
