"""S3 for the tests: moto's server, which keeps its buckets in memory."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import requests

from tests.servers.process import ServerMissing, ServerProcess, free_port, listening
from tests.servers.registry import S3Storage


@dataclass(frozen=True)
class Moto:
    """A running S3. It accepts any credentials; `endpoint` is its URL without a slash at the end."""

    endpoint: str
    process: ServerProcess
    access_key: str = "tests"
    secret_key: str = "not a secret"
    region: str = "us-east-1"
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def create_bucket(self, name: str | None = None) -> str:
        """Create a bucket, by default with an unused name. Return its name."""
        name = name or f"bucket-{next(self._numbers)}"
        requests.put(f"{self.endpoint}/{name}", timeout=60).raise_for_status()
        return name

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Yield a boto3 client, closed at the end of the block."""
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )
        try:
            yield client
        finally:
            client.close()

    def registry_storage(self, bucket: str) -> S3Storage:
        """Return the `s3` argument of start_registry for a registry that stores in `bucket`."""
        return {
            "endpoint": self.endpoint,
            "bucket": bucket,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
        }

    def stop(self) -> None:
        """Stop it; its contents are lost."""
        self.process.stop()

    def start(self) -> None:
        """Start it again on its port, empty."""
        self.process.start()


@contextmanager
def start_moto(folder: Path, *, host: str = "127.0.0.1") -> Iterator[Moto]:
    """Run S3 with its log in `folder`. Raises ServerMissing, ServerFailed."""
    if importlib.util.find_spec("moto") is None:
        raise ServerMissing("moto_server", "python3-moto")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    process = ServerProcess(
        [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)],
        ready=listening(port, host),
        log=folder / "moto.log",
    )
    process.start()
    try:
        yield Moto(f"http://{host}:{port}", process)
    finally:
        process.stop()
