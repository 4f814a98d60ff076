"""Blobs in MDS, where the registry's driver (noxiouz/docker-distribution-postgresql) keeps its files.

Its tables hold the key: `mfs.path` -> `mfs.key` = `mds.key` -> `mdsfileinfo`. The bytes come with
`GET /get-<namespace>/<key>`, whole or by Range.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from cachetools import LRUCache

from core.blobs.source import StoredFile
from core.blobs.storage_layout import blob_path
from core.digest import Digest
from core.errors import NotFound, Refused, SizeMismatch, TooManyRequests, Unavailable
from core.http.client import HttpClient
from core.http.ranged import BlobStream, range_header
from core.http.stream import HttpStream
from core.layer import Layer
from core.registry.answers import is_html, retry_after

FindFile = Callable[[str], str | None]
"""Returns the `mdsfileinfo` of a file's path, as in the table; None if it is absent or deleted."""

ReadPage = Callable[[str, str | None], tuple[Sequence[tuple[str, int | None]], str | None]]
"""Takes a folder's path and the path read last (None: start); returns the next files, as paths and sizes in
bytes, and the path read last, None at the end. May raise DatabaseError."""

_PATH_CHARACTERS = "/!$&'()*+,:;=@~"
_MAX_KEY_LENGTH = 1024
_MAX_INFO_LENGTH = 64 * 1024
_MAX_FOUND = 1024


@dataclass(frozen=True, slots=True)
class MdsFile:
    """A file in MDS; `size` is in bytes."""

    key: str
    size: int


def parse_mdsfileinfo(text: str) -> MdsFile:
    """Return the file described by a row's JSON. Raises ValueError with the reason if it is invalid."""
    if len(text) > _MAX_INFO_LENGTH:
        raise ValueError(f"longer than {_MAX_INFO_LENGTH} characters")
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    key, size = row.get("key"), row.get("size")
    if not isinstance(key, str) or len(key) > _MAX_KEY_LENGTH or not _is_usable(key):
        raise ValueError("key is not a valid path")
    if type(size) is not int or not 0 <= size < 2**63:
        raise ValueError("size is not a number of bytes")
    return MdsFile(key, size)


def _is_usable(key: str) -> bool:
    """Return whether a key stays below the namespace."""
    return key.isprintable() and not {"", ".", ".."} & set(key.split("/")) and "\\" not in key


class MdsBlobs:
    """Reads `url_template` with the payload `get-<namespace>/<key>` (a BlobSource).

    `find_file` queries the tables, and may raise DatabaseError. Raises NotFound if the file is missing in
    the tables or in MDS; Refused if the row is unusable or MDS refuses; SizeMismatch if MDS has another
    size than the tables; TimedOut, Unavailable.
    """

    parallel = True

    def __init__(
        self,
        http: HttpClient,
        url_template: str,
        namespace: str,
        blob_path_template: str,
        find_file: FindFile,
        read_page: ReadPage,
    ) -> None:
        self._http = http
        self._url_template = url_template
        self._namespace = namespace
        self._path_template = blob_path_template
        self._find_file = find_file
        self._read_page = read_page
        # The next range of a layer needs no further lookup.
        self._found: LRUCache[Digest, MdsFile] = LRUCache(_MAX_FOUND)
        self._lock = threading.Lock()

    def size(self, layer: Layer) -> int:
        """Return the size in bytes according to the tables, without a request to MDS."""
        return self._find(layer).size

    def open(self, layer: Layer, offset: int, length: int | None = None) -> BlobStream:
        """Return a reader of the file, or of a range of it. See BlobSource."""
        with self._lock:
            known = self._found.get(layer.digest)
        file = known or self._find(layer)
        try:
            return self._open(layer, file, offset, length)
        except NotFound:
            # It may have been uploaded again, under another key.
            if known is None or (file := self._find(layer)) == known:
                raise
            return self._open(layer, file, offset, length)

    def files(self, folder: str, skipping: frozenset[str] = frozenset()) -> Iterator[StoredFile]:
        """Yield the files in the tables below `folder`. See BlobStorage. Raises DatabaseDown too."""
        # The driver writes paths with a leading slash.
        page, last = self._read_page(f"/{folder}/", None)
        while last is not None:
            for path, size in page:
                yield StoredFile(path.lstrip("/"), size)
            page, last = self._read_page(f"/{folder}/", last)

    def check(self) -> str:
        """Return one line on the tables and on MDS, after requesting a missing key."""
        self._find_file("/")
        url = self._url("ping")
        with self._http.open("GET", url) as answer:
            # The file does not exist: 404 is the correct answer.
            if answer.status != 404:
                _check(answer)
            return f"{answer.target} answers {answer.status}, and the tables can be read"

    def _find(self, layer: Layer) -> MdsFile:
        path = blob_path(self._path_template, layer.digest)
        text = self._find_file(path)
        if text is None:
            raise NotFound(f"{path} in the tables of MDS")
        try:
            file = parse_mdsfileinfo(text)
        except ValueError as error:
            raise Refused(f"mdsfileinfo of {path}", None, str(error)) from error
        with self._lock:
            self._found[layer.digest] = file
        return file

    def _open(self, layer: Layer, file: MdsFile, offset: int, length: int | None) -> BlobStream:
        answer = self._http.open("GET", self._url(file.key), headers=range_header(offset, length))
        try:
            _check(answer)
            blob = BlobStream(answer, offset, length)
            if blob.size not in (None, file.size):
                raise SizeMismatch(file.size, blob.size)
        except BaseException:
            answer.close()
            raise
        return blob

    def _url(self, key: str) -> str:
        # Characters that need no escape in a path (RFC 3986, 3.3) stay.
        return self._url_template.format(payload=f"get-{self._namespace}/{quote(key, safe=_PATH_CHARACTERS)}")


def _check(answer: HttpStream) -> None:
    """Raise the error for an answer that is neither the file nor a range of it."""
    where = str(answer.target)
    if is_html(answer.headers):
        # From a proxy, whatever its status.
        raise Unavailable(where, f"status {answer.status} with a web page")
    if answer.status == 404:
        raise NotFound(where)
    if answer.status in (401, 403):
        raise Refused(where, answer.status, "access denied")
    if answer.status == 429:
        raise TooManyRequests(where, "status 429", retry_after(answer.headers))
    if answer.status not in (200, 206):
        raise Unavailable(where, f"status {answer.status}")
