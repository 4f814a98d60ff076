"""One layer at the registry, read by a download with one caller's credentials."""

from __future__ import annotations

from core.errors import RemoteError
from core.http.ranged import BlobStream, range_header
from core.http.stream import HttpStream
from core.registry.answers import from_status, refuse_page
from node.origin import PulledLayer
from node.upstream import Upstream

_ERROR_LIMIT = 64 * 1024


class RegistryOrigin:
    """An Origin.

    `torrent` is the one that came with the verdict, `may_request_torrent` whether to request it again later.
    """

    def __init__(
        self,
        upstream: Upstream,
        layer: PulledLayer,
        authorization: str | None,
        torrent: bytes | None,
        *,
        may_request_torrent: bool,
    ) -> None:
        self._upstream = upstream
        self._layer = layer
        self._authorization = authorization
        self._torrents = [torrent]
        self._may_request_torrent = may_request_torrent

    def torrent(self) -> bytes | None:
        """See Origin. The first call makes no request, later ones call the service."""
        if self._torrents:
            return self._torrents.pop()
        if not self._may_request_torrent:
            return None
        layer = self._layer
        return self._upstream.torrent(layer.scope, layer.digest, self._authorization, ignore_backoff=True)

    def open(self, offset: int, length: int) -> BlobStream:
        """See Origin. The whole layer is requested without a Range, which some registries do not support."""
        layer = self._layer
        wanted = None if (offset, length) == (0, layer.size) else length
        range_ = range_header(offset, wanted).get("Range")
        stream = self._upstream.open_blob(layer.scope, layer.digest, self._authorization, range_)
        try:
            if stream.status not in (200, 206):
                where = str(stream.target)
                what = f"blob {layer.digest} in {layer.scope}"
                raise from_status(stream.status, stream.headers, _beginning(stream), where, what)
            refuse_page(stream.headers, stream.target)
            return BlobStream(stream, offset, wanted)
        except BaseException:
            stream.close()
            raise


def _beginning(stream: HttpStream) -> bytes:
    try:
        return stream.read(_ERROR_LIMIT)
    except RemoteError:
        return b""
