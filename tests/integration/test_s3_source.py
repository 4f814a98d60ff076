"""Layers in the bucket of a real registry, at the paths of its S3 driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.blobs.s3 import S3Blobs
from core.errors import NotFound, Unavailable
from core.s3 import Bucket, s3_client
from tests.layer_backends import TEMPLATE, layer_of, making_sources
from tests.servers.layers import layer_bytes
from tests.servers.moto import Moto
from tests.servers.push import push_blob
from tests.servers.registry import start_registry

CONTENT = layer_bytes(100_000, seed=5)
LAYER = layer_of(CONTENT)


@pytest.mark.parametrize("rootdirectory", ["/", "", "/some/where", "some/where/", "/some/where/"])
def test_the_prefix_equals_the_registrys_rootdirectory(
    moto: Moto, bucket: str, tmp_path: Path, rootdirectory: str
) -> None:
    storage = moto.registry_storage(bucket)
    storage["rootdirectory"] = rootdirectory
    with start_registry(tmp_path, s3=storage) as registry:
        push_blob(registry, "team/app", CONTENT)

    with making_sources() as sources:
        client = s3_client(moto.endpoint, "us-east-1", "tests", "not a secret", 2.0, 20.0)
        sources.stack.callback(client.close)
        source = S3Blobs(Bucket(client, bucket), rootdirectory, TEMPLATE)

        assert source.size(LAYER) == len(CONTENT)
        with source.open(LAYER, 99_990) as reader:
            buffer = memoryview(bytearray(100))
            assert buffer[: reader.readinto(buffer)] == CONTENT[-10:]
        assert f"s3://{bucket}/" in source.check()
        assert "empty" not in source.check()


def test_a_prefix_without_registry_data_is_reported_by_the_check(moto: Moto, bucket: str) -> None:
    with making_sources() as sources:
        assert "empty" in sources.s3(moto.endpoint, bucket).check()


def test_a_missing_bucket_sets_no_layer_aside(moto: Moto) -> None:
    with making_sources() as sources:
        source = sources.s3(moto.endpoint, "no-such-bucket")

        with pytest.raises(Unavailable, match="bucket"):
            source.size(LAYER)
        with pytest.raises(Unavailable, match="bucket"):
            source.open(LAYER, 0)
        with pytest.raises(Unavailable, match="bucket"):
            source.check()


def test_the_error_names_a_missing_key(moto: Moto, bucket: str) -> None:
    with making_sources() as sources:
        source = sources.s3(moto.endpoint, bucket)

        with pytest.raises(NotFound, match=f"s3://{bucket}/docker/registry/v2/blobs/sha256/"):
            source.size(LAYER)
