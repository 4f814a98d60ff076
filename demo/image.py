"""Images built from files of this machine: three layers each, the first image larger than 50 MB."""

from __future__ import annotations

import gzip
import os
import sysconfig
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

_MIB = 1 << 20
FIRST_BYTES = (40 * _MIB, 12 * _MIB, 2 * _MIB)
SECOND_BYTES = (12 * _MIB, 6 * _MIB, 1 * _MIB)
"""The least compressed size of each layer."""


def write_layers(folder: Path, sizes: Sequence[int] = (*FIRST_BYTES, *SECOND_BYTES)) -> list[Path]:
    """Pack files of this machine into gzipped tars in `folder`, as layers are packed."""
    files = _files()
    layers = []
    for number, size in enumerate(sizes):
        layer = folder / f"layer{number}.tar.gz"
        # Level 1: the demo needs bytes, not good compression.
        with (
            layer.open("wb") as packed,
            gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as compressed,
            tarfile.open(fileobj=compressed, mode="w|") as archive,
        ):
            for file in files:
                archive.add(file, arcname=str(file).lstrip("/"), recursive=False)
                if packed.tell() >= size:
                    break
        layers.append(layer)
    return layers


def _files() -> Iterator[Path]:
    """Yield regular, readable files: Python's library first, then programs and libraries of the system."""
    for root in (sysconfig.get_path("stdlib"), "/usr/lib", "/usr/bin", "/usr/share"):
        for folder, inner, names in os.walk(root):
            inner.sort()
            for name in sorted(names):
                file = Path(folder, name)
                if file.is_file() and not file.is_symlink() and os.access(file, os.R_OK):
                    yield file
