"""A server as a child process: it is started, waited for until it is ready, and always ended."""

from __future__ import annotations

import fcntl
import functools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.servers.waiting import POLL_SECONDS, comes_true

# Set for Python's downloads on some machines; docker-registry panics on the first of them.
NOT_FOR_CHILDREN = (
    "AWS_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
LOG_TAIL_BYTES = 4000

_PORTS = range(20_000, 32_000)
"""Below those that Linux takes for outgoing connections: a server that a test stops finds its port free when it
is started again."""

_reserved_ports: set[int] = set()


class ServerMissing(Exception):
    """The machine lacks the server `binary`; Debian's `package` has it."""

    def __init__(self, binary: str, package: str) -> None:
        self.binary = binary
        self.package = package
        super().__init__(f"{binary} is not installed, Debian's package {package} has it")


class ServerFailed(Exception):
    """The server did not start, or the program failed. The message has the end of its log."""

    def __init__(self, argv: Sequence[str], why: str, log: Path) -> None:
        self.why = why
        self.log = log
        super().__init__(f"{' '.join(argv)}: {why}; its log ends\n{_tail(log)}")


def require(binary: str, package: str) -> Path:
    """Return the path of the program `binary`. Raises ServerMissing, which names the Debian package to install."""
    # Debian keeps daemons in the sbin folders, which are not in every user's PATH.
    path = shutil.which(binary, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        raise ServerMissing(binary, package)
    return Path(path)


def free_port() -> int:
    """Return a port of 127.0.0.1 without a listener, reserved for this process until it ends.

    A port is reserved by a lock on its byte of a file that all runs of the tests share (fcntl(2)).
    """
    locks = _port_locks()
    while True:
        port = random.choice(_PORTS)
        if port in _reserved_ports:
            continue
        try:
            fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        _reserved_ports.add(port)
        return port


@functools.cache
def _port_locks() -> int:
    """Open the file of port locks, for the life of this process: closing it would release them."""
    return os.open(f"/tmp/docker-torrents-ports-{os.geteuid()}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def listening(port: int, host: str = "127.0.0.1") -> Callable[[], bool]:
    """Return a readiness test: are TCP connections accepted there?"""

    def ready() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex((host, port)) == 0

    return ready


def has_ended(pid: int) -> bool:
    """Return whether the process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class ServerProcess:
    """One child in its own process group, which can be stopped and started again.

    It dies with the thread that started it (PR_SET_PDEATHSIG counts threads, prctl(2)): start it from
    the main thread. It then gets `death_signal`: SIGKILL ends it also while it is stopped by SIGSTOP.
    `user` is a user name to run as, where this process is root. `end_signal` stops it; SIGKILL follows
    after `grace` seconds. All output is appended to the file `log`. A `with` block starts and stops it.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        ready: Callable[[], bool],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        end_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
        start_timeout: float = 120.0,
        grace: float = 20.0,
    ) -> None:
        self.argv = [str(part) for part in argv]
        self.log = log
        self._ready = ready
        self._env = child_environment(env)
        self._cwd = cwd
        self._end_signal = end_signal
        self._start_timeout = start_timeout
        self._grace = grace
        self._command = bound_to_parent(self.argv, user=user, death_signal=death_signal)
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The child's process id. Raises ServerFailed if it is not running."""
        if self._child is None:
            raise ServerFailed(self.argv, "it is not running", self.log)
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the child runs: it was neither stopped nor has it exited."""
        return self._child is not None and not _has_ended(self._child.pid, 0)

    def exit_status(self) -> int:
        """Wait until the child exits, and return its status, -15 for SIGTERM; `stop` must still be called."""
        assert comes_true(lambda: not self.alive), f"{self.argv} is still running"
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def start(self) -> None:
        """Start the child and wait until it is ready. Raises ServerFailed, after ending the child."""
        if self._child is not None:
            raise ServerFailed(self.argv, "it is running already", self.log)
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(self._child)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop the child, by SIGKILL after `grace` seconds. Does nothing if it is stopped."""
        if self._child is not None:
            self._end(self._child, self._end_signal)

    def kill(self) -> None:
        """End the child with SIGKILL, like a crash. Does nothing if it is stopped."""
        if self._child is not None:
            self._end(self._child, signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Send the child a signal, such as SIGHUP to reread its files."""
        os.kill(self.pid, number)

    def _wait_until_ready(self, child: subprocess.Popen[bytes]) -> None:
        give_up = time.monotonic() + self._start_timeout
        while True:
            if _has_ended(child.pid, 0):
                raise ServerFailed(self.argv, "it ended at once", self.log)
            if self._ready():
                return
            if time.monotonic() > give_up:
                raise ServerFailed(self.argv, f"not ready after {self._start_timeout:g} s", self.log)
            time.sleep(POLL_SECONDS)

    def _end(self, child: subprocess.Popen[bytes], first: signal.Signals) -> None:
        try:
            os.kill(child.pid, first)
            if not _has_ended(child.pid, self._grace):
                os.kill(child.pid, signal.SIGKILL)
        finally:
            # Until the child is reaped its id is not reused, so the group is still ours.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            self._child = None


@contextmanager
def running(
    argv: Sequence[str | Path],
    *,
    ready: Callable[[], bool],
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str | None = None,
    start_timeout: float = 120.0,
) -> Iterator[ServerProcess]:
    """Run a server for the length of a `with` block; see ServerProcess for the arguments."""
    with ServerProcess(
        argv,
        ready=ready,
        log=log,
        env=env,
        cwd=cwd,
        user=user,
        start_timeout=start_timeout,
    ) as process:
        yield process


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process by SIGSTOP for the length of a `with` block, and no longer than this process lives.

    A child that is frozen notices that its parent died only once it continues. So a shell continues it, as
    soon as its input ends.
    """
    shell = subprocess.Popen(
        ["sh", "-c", 'read -r _; kill -CONT "$1"', "sh", str(pid)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        shell.communicate()


def run(argv: Sequence[str | Path], *, log: Path, timeout: float = 60.0, user: str | None = None) -> None:
    """Run a program to its end, its output to the file `log`.

    Raises ServerFailed if its exit status is not 0, or if it takes longer than `timeout` seconds.
    """
    words = [str(part) for part in argv]
    with log.open("wb") as output:
        try:
            ended = subprocess.run(
                bound_to_parent(words, user=user),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(),
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as expired:
            raise ServerFailed(words, f"not done after {timeout:g} s", log) from expired
    if ended.returncode != 0:
        raise ServerFailed(words, f"it ended with status {ended.returncode}", log)


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without NOT_FOR_CHILDREN, updated with `extra`."""
    environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_CHILDREN}
    environment.update(extra or {})
    return environment


def bound_to_parent(
    argv: Sequence[str | Path], *, user: str | None = None, death_signal: signal.Signals = signal.SIGKILL
) -> list[str]:
    """Return the command that runs `argv` as `user`, and dies with the thread that started it.

    A wrapper program instead of Popen's preexec_fn, which may deadlock with threads. The user
    changes first: a change of user afterwards makes the kernel forget the death signal.
    """
    setpriv = require("setpriv", "util-linux")
    name = death_signal.name.removeprefix("SIG")
    return [*_as_user(user), str(setpriv), f"--pdeathsig={name}", "--", *map(str, argv)]


def _as_user(user: str | None) -> list[str]:
    """Return the prefix of a command that runs it as `user`: empty unless this process is root.

    The user keeps root's access to folders (CAP_DAC_OVERRIDE): pytest's folders are private, and the
    checkout may be in a home directory.
    """
    if user is None or os.geteuid() != 0:
        return []
    setpriv = require("setpriv", "util-linux")
    group = pwd.getpwnam(user).pw_gid
    become = [f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    return [str(setpriv), *become, "--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--"]


def _has_ended(pid: int, timeout: float) -> bool:
    """Return whether our child ends within `timeout` seconds, without reaping it."""
    return comes_true(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), timeout)


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace")
