"""A bucket at the S3 that the configuration names."""

from __future__ import annotations

from core.config.config import S3
from core.s3 import Bucket, s3_client

CONNECT_SECONDS, READ_SECONDS = 5.0, 60.0
"""Time-outs: a bucket is near, or the queue tries again later."""


def open_bucket(settings: S3, name: str) -> Bucket:
    """The bucket of this name; nothing is connected yet."""
    secret = settings.secret_key.get_secret_value() if settings.secret_key else None
    client = s3_client(
        settings.endpoint_url,
        settings.region,
        settings.access_key,
        secret,
        CONNECT_SECONDS,
        READ_SECONDS,
    )
    return Bucket(client, name)
