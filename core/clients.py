"""HTTP clients and S3 buckets with the configured TLS trust and proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.config.config import Config
from core.http.client import HttpClient
from core.http.tls import trusted_bundle

if TYPE_CHECKING:
    from core.s3 import Bucket

S3_CONNECT_SECONDS, S3_READ_SECONDS = 5.0, 60.0
"""Time-outs: a bucket is near, or the queue retries later."""


def http_client(
    config: Config, connect_timeout: float, read_timeout: float, *, resource: str | None = None
) -> HttpClient:
    """Return a client with these time-outs, in seconds. `resource`: see HttpClient.

    Raises ConfigInvalid for an unusable tls.ca_file.
    """
    return HttpClient(
        connect_timeout,
        read_timeout,
        ca_bundle=trusted_bundle(config.tls.ca_file),
        proxy=_proxy(config),
        resource=resource,
    )


def open_bucket(config: Config, name: str) -> Bucket:
    """Return the bucket of this name; nothing is connected yet."""
    # boto3, which only those need who keep something in S3.
    from core.s3 import Bucket, s3_client

    settings = config.s3
    secret = settings.secret_key.get_secret_value() if settings.secret_key else None
    client = s3_client(
        settings.endpoint_url,
        settings.region,
        settings.access_key,
        secret,
        S3_CONNECT_SECONDS,
        S3_READ_SECONDS,
        ca_bundle=trusted_bundle(config.tls.ca_file),
        proxy=_proxy(config),
    )
    return Bucket(client, name)


def _proxy(config: Config) -> str | None:
    return config.http.proxy.get_secret_value() if config.http.proxy else None
