"""S3 through boto3: a client, a bucket, and the translation of boto3's errors.

Only this module imports boto3. A metainfo store and a layer source are built on it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import boto3.session
from botocore import exceptions as boto
from botocore.config import Config

from core.errors import BadAnswer, ConnectionCut, NotFound, Refused, RemoteError, TimedOut, Unavailable
from core.http.failures import tls_problem
from core.http.tls import system_store

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3.client import S3Client

_session = boto3.session.Session()
_creating = threading.Lock()

# More than the brewers of one process with their parallel ranges use at once.
_CONNECTIONS = 64

# S3 answers these with 403, as for a lack of permission, but to every request. The last one: a wrong clock.
_WRONG_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"}
)

PERMISSIONS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
}
"""The permission for each operation in use. docs/configuration.md has a policy with all of them."""


def s3_client(
    endpoint_url: str | None,
    region: str | None,
    access_key: str | None,
    secret_key: str | None,
    connect_timeout: float,
    read_timeout: float,
    *,
    ca_bundle: str | None = None,
    proxy: str | None = None,
) -> S3Client:
    """Return a thread-safe client, without connecting. Time-outs are in seconds.

    Without `endpoint_url` it is for AWS; without keys boto3 finds them where AWS's tools do. `ca_bundle` is
    a file of the trusted certificates; the environment's proxies and certificates are ignored.
    """
    # A session reads boto3's description of S3 once, for all its clients. Threads may not share it.
    with _creating:
        return _session.client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            verify=ca_bundle or system_store(),
            config=Config(
                signature_version="s3v4",
                connect_timeout=connect_timeout,
                read_timeout=read_timeout,
                # One quick retry; the queue has longer delays.
                retries={"mode": "standard", "total_max_attempts": 2},
                max_pool_connections=_CONNECTIONS,
                # An empty one makes boto3 ignore those of the environment.
                proxies={"http": proxy, "https": proxy} if proxy else {},
                # Servers other than AWS rarely have a host name for each bucket ...
                s3={"addressing_style": "path" if endpoint_url else "auto"},
                # ... or support the checksums that boto3 sends since 1.36.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


class Bucket:
    """One bucket. Thread-safe. Every method raises RemoteError."""

    def __init__(self, client: S3Client, name: str) -> None:
        self._client = client
        self._seconds = float(getattr(client.meta.config, "read_timeout"))  # noqa: B009 - the stubs lack it
        self.name = name

    def size(self, key: str) -> int:
        """Return the object's size in bytes."""
        try:
            with self._translated(key):
                return self._client.head_object(Bucket=self.name, Key=key)["ContentLength"]
        except NotFound:
            # The answer to HEAD has no body that tells a missing key from a missing bucket.
            with suppress(Refused):
                self.check()
            raise

    def open(self, key: str, offset: int = 0, length: int | None = None) -> S3Reader:
        """Return a reader of `length` bytes from `offset`, or of all from there."""
        where = self._where(key)
        with self._translated(key):
            if offset == 0 and length is None:
                return S3Reader(
                    self._client.get_object(Bucket=self.name, Key=key)["Body"], where, 0, self._seconds
                )
            last = "" if length is None else str(offset + length - 1)
            answer = self._client.get_object(Bucket=self.name, Key=key, Range=f"bytes={offset}-{last}")
        if not answer.get("ContentRange", "").startswith(f"bytes {offset}-"):
            answer["Body"].close()
            raise BadAnswer(where, f"requested bytes from {offset} on, got something else")
        return S3Reader(answer["Body"], where, offset, self._seconds)

    def get(self, key: str, limit: int) -> bytes:
        """Return the whole object, if it has at most `limit` bytes."""
        where = self._where(key)
        with self._translated(key):
            body = self._client.get_object(Bucket=self.name, Key=key)["Body"]
            data = bytearray()
            try:
                # Until the empty read: only that detects a body shorter than announced.
                while len(data) <= limit and (part := body.read(limit + 1 - len(data))):
                    data += part
            finally:
                body.close()
        if len(data) > limit:
            raise BadAnswer(where, f"longer than {limit} bytes")
        return bytes(data)

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store `data` under `key`, replacing an existing object."""
        with self._translated(key):
            self._client.put_object(Bucket=self.name, Key=key, Body=data, ContentType=content_type)

    def delete(self, key: str) -> None:
        """Delete the object, if it exists."""
        # Google's storage answers 404 for an object that does not.
        with suppress(NotFound), self._translated(key):
            self._client.delete_object(Bucket=self.name, Key=key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield key and size in bytes of each object whose key begins with `prefix`, in the order of keys."""
        with self._translated(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=prefix
            ):
                # boto3 turns an answer cut within its head into an empty page, which would look like the end.
                if "IsTruncated" not in page:
                    raise ConnectionCut(self._where(prefix), 0, "a page of the listing was cut")
                for entry in page.get("Contents", []):
                    yield entry["Key"], entry["Size"]

    def check(self) -> None:
        """Raise RemoteError unless the bucket exists and these credentials may list it."""
        with self._translated(""):
            self._client.list_objects_v2(Bucket=self.name, MaxKeys=1)

    def _where(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def _translated(self, key: str) -> AbstractContextManager[None]:
        return _translated(self._where(key), 0, self._seconds)


class S3Reader:
    """An object's bytes, or a range of them, as a stream (a core.blobs.source.BlobReader)."""

    def __init__(self, body: StreamingBody, where: str, offset: int, seconds: float) -> None:
        self._body = body
        self._where = where
        self._seconds = seconds
        self._offset = offset
        self._closed = False
        self._held = ExitStack()
        # Within `with` a StreamingBody is the response of urllib3, which it closes at the end.
        self._response: Any = self._held.enter_context(body)

    def readinto(self, buffer: memoryview, /) -> int:
        """See BlobReader."""
        try:
            with _translated(self._where, self._offset, self._seconds):
                # botocore's stubs require a file; it accepts any writable buffer.
                count = self._body.readinto(buffer)  # type: ignore[arg-type]
        except (AttributeError, ValueError) as error:
            # Another thread has closed it: the libraries fail without their file.
            if not self._closed:
                raise
            raise ConnectionCut(self._where, self._offset, "closed") from error
        self._offset += count
        return count

    def close(self) -> None:
        """Free the connection. May be called twice, and by another thread, which wakes a reader."""
        self._closed = True
        # Without this, closing waits for the reader. The errors mean that it has already ended.
        with suppress(OSError, ValueError, RuntimeError):
            self._response.shutdown()
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _translated(where: str, offset: int, seconds: float) -> Iterator[None]:
    """Turn boto3's errors into RemoteError. `offset` is the number of bytes read, `seconds` the time-out."""
    try:
        yield
    except boto.ClientError as error:
        raise _refusal(error, where, offset) from error
    except (boto.ConnectTimeoutError, boto.ReadTimeoutError) as error:
        raise TimedOut(where, seconds) from error
    except (boto.IncompleteReadError, boto.ResponseStreamingError) as error:
        raise ConnectionCut(where, offset, str(error)) from error
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError) as error:
        raise Refused(where, None, str(error)) from error
    except boto.SSLError as error:
        # Its own text is urllib3's, without a remedy.
        raise Unavailable(where, tls_problem(error.__context__ or error)) from error
    except boto.BotoCoreError as error:
        raise Unavailable(where, str(error)) from error


def _refusal(error: boto.ClientError, where: str, offset: int) -> RemoteError:
    """Return the error for an answer other than 2xx."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = error.response.get("Error", {}).get("Code", "")
    message = error.response.get("Error", {}).get("Message", "")
    why = f"{status} {code}: {message}"
    if code == "NoSuchBucket":
        return Unavailable(where, "no such bucket: create it, or correct its name in the configuration")
    if status == 404:
        return NotFound(where)
    if code in _WRONG_CREDENTIALS:
        return Refused(where, 401, f"{code}: {message}")
    if status in (401, 403):
        permission = PERMISSIONS.get(error.operation_name)
        needs = f" (needs {permission})" if permission else ""
        return Refused(where, status, f"{code}: {message}{needs}")
    if status == 416:
        return ConnectionCut(where, offset, why)
    return Unavailable(where, why)
