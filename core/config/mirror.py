"""The node's part of the configuration: section `mirror`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ByteSize, Field

from core.config.addresses import Address, Network, Port, RegistryHost, Url
from core.config.section import FilePath, Section
from core.config.values import Timeout
from core.names import parse_pattern

_MAX_BYTES = 2**60
Bytes = Annotated[ByteSize, Field(ge=0, le=_MAX_BYTES)]


class Mirror(Section):
    """Keys of `docker_torrents mirror`. Sizes are bytes, or text such as `20GiB`."""

    host: Address = "127.0.0.1"
    port: Port = 5050
    torrents_url: Url | None = None
    registry_names: list[RegistryHost] = Field(default_factory=list)
    peer_host: Address = "0.0.0.0"  # noqa: S104 - peers are other machines
    peer_port: Port = 6881
    peers: list[Network] = Field(default_factory=list)
    cache_dir: FilePath = Path("/var/lib/docker-torrents-mirror")
    cache_size: Annotated[ByteSize, Field(ge=1, le=_MAX_BYTES)] = ByteSize(20 * 1024**3)
    keep_free: Bytes = ByteSize(5 * 1024**3)
    download_limit: Bytes = ByteSize(0)
    upload_limit: Bytes = ByteSize(100_000_000)
    min_size: Bytes = ByteSize(1024**2)
    torrents_off: list[Annotated[str, AfterValidator(parse_pattern)]] = Field(default_factory=list)
    time_limit: Timeout = 120.0
