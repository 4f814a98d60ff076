"""One machine of a swarm: read commands from standard input, and answer each when it is done.

    http URL        fetch with curl, over one connection, as container engines do
    torrent URL     fetch the .torrent at that URL with libtorrent's defaults, and keep seeding
    mirror CONFIG   start a mirror with this configuration (YAML on one line) and an empty cache
    kill            kill the mirror
    rest            stop everything, and delete the files

Each is answered by a line, a fetch by the SHA-256 of the file, the seconds that it took and the processor
seconds that the mirror took, or `failed` if the mirror was killed meanwhile. Ends with its input.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import requests

from tests.servers.libtorrent_client import done, start_libtorrent
from tests.servers.process import ServerProcess

MIRROR_PORT = 5050
PROGRAM = Path(sys.executable).with_name("docker_torrents")


class Machine:
    """The processes and files of a machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._torrent_client = ExitStack()
        self._mirror: ServerProcess | None = None

    def start_mirror(self, config: str) -> None:
        self.rest()
        (self._folder / "config.yaml").write_text(config)
        self._mirror = ServerProcess(
            [PROGRAM, "-c", self._folder / "config.yaml", "mirror"],
            ready=answers_ping,
            log=self._folder / "mirror.log",
        )
        self._mirror.start()

    def kill_mirror(self) -> None:
        if self._mirror is not None:
            self._mirror.kill()

    def processor(self) -> float:
        """Return the processor seconds of the mirror's processes so far."""
        if self._mirror is None or not self._mirror.alive:
            return 0.0
        parent = psutil.Process(self._mirror.pid)
        return sum(sum(one.cpu_times()[:2]) for one in (parent, *parent.children(recursive=True)))

    def by_curl(self, url: str) -> Path:
        file = self._folder / "layer"
        subprocess.run(["curl", "--silent", "--show-error", "--fail", "--output", file, url], check=True)
        return file

    def by_torrent(self, url: str) -> Path:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(url, timeout=60)
            answer.raise_for_status()
        client = self._torrent_client.enter_context(start_libtorrent(self._folder, host="0.0.0.0"))
        handle = client.add(answer.content)
        while not done(handle):
            time.sleep(0.02)
        return client.folder / str(handle.status().name)

    def rest(self) -> None:
        self._torrent_client.close()
        if self._mirror is not None:
            self._mirror.stop()
            self._mirror = None
        for path in self._folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def answers_ping() -> bool:
    """Return whether the mirror answers: it listens before that."""
    try:
        return requests.get(f"http://127.0.0.1:{MIRROR_PORT}/ping", timeout=10).ok
    except requests.RequestException:
        return False


def main(folder: Path) -> None:
    folder.mkdir()
    machine = Machine(folder)
    answer("ready")
    for line in sys.stdin:
        what, _, argument = line.strip().partition(" ")
        match what:
            case "http":
                in_thread(machine, machine.by_curl, argument)
            case "torrent":
                in_thread(machine, machine.by_torrent, argument)
            case "mirror":
                machine.start_mirror(argument)
                answer("ready")
            case "kill":
                machine.kill_mirror()
            case _:
                machine.rest()
                answer("resting")
    machine.rest()


def in_thread(machine: Machine, fetch: Callable[[str], Path], url: str) -> None:
    """Fetch in another thread: the machine may have to kill its mirror meanwhile."""
    threading.Thread(target=report, args=(machine, fetch, url), daemon=True).start()


def report(machine: Machine, fetch: Callable[[str], Path], url: str) -> None:
    began, processor = time.monotonic(), machine.processor()
    try:
        file = fetch(url)
    except subprocess.CalledProcessError:
        answer("failed")
        return
    seconds = time.monotonic() - began
    processor = machine.processor() - processor
    with file.open("rb") as content:
        answer(f"{hashlib.file_digest(content, 'sha256').hexdigest()} {seconds:.3f} {processor:.2f}")


def answer(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
