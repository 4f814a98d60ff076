"""Layers to push: bytes that are the same in each run, and real gzipped tars."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

BLOCK_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"

Layer = bytes | Path
"""A layer's content: bytes, or a file too large for memory."""


def layer_bytes(size: int, seed: int = 0) -> bytes:
    """Return `size` incompressible bytes, always the same for one `seed`."""
    return b"".join(_blocks(size, seed))


def write_layer(path: Path, size: int, seed: int = 0) -> Path:
    """Write `layer_bytes(size, seed)` to a file, never holding more than a block. Returns `path`."""
    with path.open("wb") as file:
        file.writelines(_blocks(size, seed))
    return path


def layer_tar(files: Mapping[str, bytes]) -> bytes:
    """Return a gzipped tar of `files`, like an image's layer; the same files always give the same bytes."""
    packed = io.BytesIO()
    # Level 1: the tests' files hardly compress. mtime 0: gzip would put the time of day into the bytes.
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def digest_of(layer: Layer) -> str:
    """`sha256:<hex>` of a layer, as the registry calls it."""
    return _sha256(_read(layer))


def size_of(layer: Layer) -> int:
    """Return a layer's length in bytes."""
    return layer.stat().st_size if isinstance(layer, Path) else len(layer)


def diff_id_of(layer: Layer) -> str:
    """Return `sha256:<hex>` of the uncompressed layer, which an image's config names."""
    if next(_read(layer), b"")[:2] != _GZIP_MAGIC:
        return digest_of(layer)
    unpack = zlib.decompressobj(wbits=31)
    return _sha256(unpack.decompress(block) for block in _read(layer))


def _blocks(size: int, seed: int) -> Iterator[bytes]:
    # Random bytes cost more than hashing them: one block is repeated, with its number in front.
    noise = random.Random(seed).randbytes(min(BLOCK_BYTES, size))
    for start in range(0, size, BLOCK_BYTES):
        number = (start // BLOCK_BYTES).to_bytes(8, "big") if start else b""
        yield (number + noise[len(number) :])[: size - start]


def _read(layer: Layer) -> Iterator[bytes]:
    with layer.open("rb") if isinstance(layer, Path) else io.BytesIO(layer) as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _sha256(blocks: Iterator[bytes]) -> str:
    state = hashlib.sha256()
    for block in blocks:
        state.update(block)
    return f"sha256:{state.hexdigest()}"
