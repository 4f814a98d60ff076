"""One large layer from a directory: the speed of brewing relative to hashlib's own limit, and its memory.

Speed is measured with the parts of the service, memory with the service itself (`run brew`). The files are
read from the page cache, so that the code is measured and not the disk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torf
from matplotlib.axes import Axes

from bench.report import SCRATCH, Target, report
from core.blobs.directory import DirectoryBlobs
from core.digest import Digest
from core.layer import Layer
from core.torrents.brewing import brew_layer
from core.torrents.piece_length import piece_length
from core.torrents.store import DirectoryStore
from tests.installation import PROGRAM, Installation

MIB = 1024 * 1024
GIB = 1024 * MIB
SIZE = GIB
ROUNDS = 9
MEMORY_SIZES = [64 * MIB, GIB, 4 * GIB]
MIN_RATIO = 0.85
MAX_MEMORY_MIB = 150
TEMPLATE = "/docker/registry/v2/blobs/sha256/{short_digest}/{full_digest}/data"

FOLDER = SCRATCH / "brew_large"
STORAGE = FOLDER / "storage"

LIMIT = "hashlib: the slower of SHA-256 and SHA-1, in memory"
BOTH = "hashlib: SHA-256 beside SHA-1, two threads, in memory"
OURS = "brew_layer: SHA-256, pieces, metainfo kept"
MKTORRENT = "mktorrent, 2 threads: pieces alone"
TORF = "torf, 2 threads: pieces alone"
TWO_PASSES = "SHA-256 of the file, then mktorrent"


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        measure_speed()
        measure_memory()
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)


def measure_speed() -> None:
    layer = random_layer(SIZE)
    rounds = [one_round(layer) for _ in range(ROUNDS)]
    # Each contestant against the limit of the same round: variations of the machine cancel out.
    ratio = {name: statistics.median(took[LIMIT] / took[name] for took in rounds) for name in rounds[0]}
    seconds = {name: statistics.median(took[name] for took in rounds) for name in rounds[0]}
    rows = [
        {"what": name, "s": seconds[name], "MB/s": SIZE / seconds[name] / 1e6, "ratio": ratio[name]}
        for name in rounds[0]
    ]

    def plot(axes: Axes) -> None:
        names = list(reversed(seconds))
        axes.barh(names, [SIZE / seconds[name] / 1e6 for name in names])
        axes.axvline(MIN_RATIO * SIZE / seconds[LIMIT] / 1e6, color="black", linestyle="--", linewidth=1)
        axes.set_xlabel(f"MB/s (dashed: {MIN_RATIO} of hashlib's limit)")
        axes.set_title("Brewing one layer of 1 GiB from a directory")

    report(
        "brew_large",
        rows,
        ["what", "s", "MB/s", "ratio"],
        f"One layer of 1 GiB from a directory, in the page cache: medians of {ROUNDS} rounds, in each\n"
        "of which all are measured in turn. ratio: speed, with hashlib's limit in the same round = 1.",
        plot,
        [
            Target(
                f"at least {MIN_RATIO} of hashlib's limit",
                f"{ratio[OURS]:.3f}",
                ratio[OURS] >= MIN_RATIO,
            )
        ],
    )


def one_round(layer: Layer) -> dict[str, float]:
    """Return the seconds that each contestant took."""
    source = DirectoryBlobs(STORAGE, TEMPLATE)
    store = DirectoryStore(FOLDER / "metainfo")
    file = blob(layer.digest)

    def brew() -> None:
        brew_layer(source, store, layer, private=True, connections=1, interrupted=lambda: False)

    hash_speed = max(seconds_of(lambda: hash_in_memory("sha256")), seconds_of(lambda: hash_in_memory("sha1")))
    took = {
        LIMIT: hash_speed,
        # The limit of this machine: two busy or virtual cores do not hash twice as much.
        BOTH: seconds_of(hash_both_in_memory),
        OURS: seconds_of(brew),
        MKTORRENT: seconds_of(lambda: run_mktorrent(file)),
        TORF: seconds_of(lambda: run_torf(file)),
    }
    with file.open("rb") as content:
        took[TWO_PASSES] = took[MKTORRENT] + seconds_of(lambda: hashlib.file_digest(content, "sha256"))
    return took


def hash_in_memory(algorithm: str) -> None:
    """Hash as many bytes as the layer has, from a buffer in the processor's cache."""
    buffer = bytes(MIB)
    digest = hashlib.new(algorithm)
    for _ in range(SIZE // MIB):
        digest.update(buffer)


def hash_both_in_memory() -> None:
    threads = [threading.Thread(target=hash_in_memory, args=(name,)) for name in ("sha256", "sha1")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run_mktorrent(file: Path) -> None:
    torrent = FOLDER / "mktorrent.torrent"
    torrent.unlink(missing_ok=True)
    exponent = piece_length(SIZE).bit_length() - 1
    subprocess.run(
        [
            *("mktorrent", "-t", "2", "-l", str(exponent), "-a", "http://tracker.example/announce"),
            *("-o", torrent, file),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def run_torf(file: Path) -> None:
    torf.Torrent(file, piece_size=piece_length(SIZE)).generate(threads=2)


def measure_memory() -> None:
    rows = [{"layer, MiB": size // MIB, "peak memory, MiB": peak_memory(size) / MIB} for size in MEMORY_SIZES]
    peaks = [row["peak memory, MiB"] for row in rows]

    def plot(axes: Axes) -> None:
        axes.bar([f"{size // MIB:,} MiB" for size in MEMORY_SIZES], peaks)
        axes.axhline(MAX_MEMORY_MIB, color="black", linestyle="--", linewidth=1)
        axes.set_ylabel("MiB (dashed: the limit)")
        axes.set_title("Peak memory of `docker_torrents run brew`, by the layer's size")

    report(
        "brew_memory",
        rows,
        ["layer, MiB", "peak memory, MiB"],
        "Peak resident memory of `docker_torrents run brew`, in its own process, for one layer.",
        plot,
        [
            Target(
                f"under {MAX_MEMORY_MIB} MiB whatever the layer's size",
                f"{max(peaks):.0f} MiB",
                max(peaks) < MAX_MEMORY_MIB,
            )
        ],
    )


def peak_memory(size: int) -> int:
    """Return the peak memory, in bytes, of a run that brews a layer of `size` bytes."""
    layer = sparse_layer(size)
    installation = Installation(
        FOLDER / str(size),
        "registry.invalid",
        layers={"source": "directory", "directory": str(STORAGE)},
        db={"blob_path_template": TEMPLATE},
    )
    installation.run("init-db")
    [database] = installation.state.glob("*.sqlite*")
    with sqlite3.connect(database) as connection:
        connection.execute(
            "INSERT INTO rbtorrent_mapping (digest, added) VALUES (?, ?)", (str(layer.digest), 0)
        )
    connection.close()
    peak = 0
    command = [PROGRAM, "-c", installation.config, "run", "brew"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while running.poll() is None:
            peak = max(peak, high_water(running.pid))
            time.sleep(0.005)
    if running.returncode or not installation.torrent(str(layer.digest)).exists():
        raise RuntimeError(f"the layer of {size} bytes was not brewed")
    return peak


def high_water(pid: int) -> int:
    """Return the peak of resident bytes so far (VmHWM), 0 once the process has ended.

    wait4 reports another figure, which begins with the memory of the parent process.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def random_layer(size: int) -> Layer:
    """Create a blob of random bytes in the storage tree, in the page cache."""
    path = STORAGE / "new"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    return moved_into_storage(path)


def sparse_layer(size: int) -> Layer:
    """Create a blob of zeros that uses no space on the disk."""
    path = STORAGE / "new"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return moved_into_storage(path)


def moved_into_storage(path: Path) -> Layer:
    with path.open("rb") as file:
        digest = Digest(hashlib.file_digest(file, "sha256").hexdigest())
    size = path.stat().st_size
    blob(digest).parent.mkdir(parents=True, exist_ok=True)
    path.rename(blob(digest))
    return Layer(digest, (), size)


def blob(digest: Digest) -> Path:
    return STORAGE / TEMPLATE.format(short_digest=digest.short, full_digest=digest.hex).lstrip("/")


def seconds_of(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
