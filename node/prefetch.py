"""`mirror prefetch`: pull images' layers through the running mirror, so that its cache has them."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from core.blobs.registry import RegistryBlobs
from core.blobs.resume import ResumingReader
from core.digest import Digest
from core.errors import DockerTorrentsError, Interrupted, NotFound
from core.layer import Layer
from core.manifests.platform import Platform
from core.registry.client import RegistryClient
from core.registry.image_tree import TreeReader
from node.local_mirror import LocalMirror
from node.origin import PulledLayer

log = logging.getLogger(__name__)

AT_ONCE = 3
"""The number of layers pulled at a time, as by engines."""

_BUFFER = 256 * 1024


@dataclass(frozen=True, slots=True)
class ImageName:
    """`scope:tag` or `scope@sha256:...`."""

    scope: str
    reference: str | Digest

    def __str__(self) -> str:
        sign = "@" if isinstance(self.reference, Digest) else ":"
        return f"{self.scope}{sign}{self.reference}"


@dataclass(slots=True)
class Prefetched:
    """The results of a prefetch; `str()` is its last line."""

    layers: int = 0
    size: int = 0
    failed: int = 0

    def __str__(self) -> str:
        return f"prefetched {self.layers} layers ({self.size / 1e6:.1f} MB), failed {self.failed}"


def prefetch(
    registry: RegistryClient,
    mirror: LocalMirror,
    images: Sequence[ImageName],
    platforms: tuple[Platform, ...],
    *,
    pin: bool,
    stop: threading.Event,
) -> Prefetched:
    """Pull the layers of `images` for `platforms` (all of them if empty). `registry` is a client of the
    mirror. Once `stop` is set no request is begun, and what is left counts as failed.
    """
    done = Prefetched()
    wanted: dict[Digest, PulledLayer] = {}
    for image in images:

        def child_failed(child: Digest, error: DockerTorrentsError, image: ImageName = image) -> None:
            log.error("child of an index not read image=%s child=%s reason=%s", image, child, error)
            done.failed += 1

        try:
            _check_stopped(stop)
            layers = _layers(registry, image, platforms, child_failed)
            wanted.update((layer.digest, layer) for layer in layers)
        except DockerTorrentsError as error:
            log.error("image not read image=%s reason=%s", image, error)
            done.failed += 1
    with _bar(sum(layer.size for layer in wanted.values())) as bar, ThreadPoolExecutor(AT_ONCE) as threads:

        def pull_one(layer: PulledLayer) -> bool:
            try:
                _check_stopped(stop)
                if pin:
                    mirror.pin(layer.digest)
                _pull(registry, layer, bar, stop)
            except DockerTorrentsError as error:
                log.error("layer not pulled digest=%s scope=%s reason=%s", layer.digest, layer.scope, error)
                return False
            return True

        for layer, pulled in zip(wanted.values(), threads.map(pull_one, wanted.values()), strict=True):
            if pulled:
                done.layers += 1
                done.size += layer.size
            else:
                done.failed += 1
    return done


def _layers(
    registry: RegistryClient,
    image: ImageName,
    platforms: tuple[Platform, ...],
    failed: Callable[[Digest, DockerTorrentsError], None],
) -> Iterator[PulledLayer]:
    """Yield the layers to pull. Raises NotFound if an index has no image for any of the platforms."""
    reader = TreeReader(registry, image.scope, platforms=platforms, failed=failed)
    manifests = list(reader.read(image.reference))
    # The index itself is the last.
    if manifests[-1].left_out and not any(manifest.layers or manifest.unread for manifest in manifests):
        raise NotFound(f"{image} for {', '.join(map(str, platforms))}")
    for manifest in manifests:
        for layer in manifest.layers:
            if not layer.has_urls and layer.size:
                yield PulledLayer(layer.digest, image.scope, layer.size)


def _pull(registry: RegistryClient, layer: PulledLayer, bar: Any, stop: threading.Event) -> None:
    """Read the layer to its end, resuming where a connection breaks. Raises RemoteError, Interrupted."""

    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise Interrupted

    buffer = memoryview(bytearray(_BUFFER))
    blob = Layer(layer.digest, (layer.scope,), layer.size)
    reader = ResumingReader(RegistryBlobs(registry), blob, 0, layer.size, sleep=sleep)
    with reader:
        while count := reader.readinto(buffer):
            bar.update(count)
            _check_stopped(stop)


def _check_stopped(stop: threading.Event) -> None:
    if stop.is_set():
        raise Interrupted


def _bar(total: int) -> AbstractContextManager[Any]:
    bar: AbstractContextManager[Any] = tqdm(
        desc="prefetch",
        total=total,
        unit="B",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
    )
    return bar
