"""A test server ends with its block, with its parent, and when it does not become ready."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from tests.servers.process import (
    NOT_FOR_CHILDREN,
    ServerFailed,
    ServerMissing,
    ServerProcess,
    free_port,
    has_ended,
    listening,
    require,
    running,
)
from tests.servers.waiting import comes_true


def _written(path: Path) -> bool:
    return path.exists() and path.read_text().endswith("\n")


def _http_server(port: int) -> list[str]:
    return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]


def _raise_while_running(port: int, log: Path, pids: list[int]) -> None:
    with running(_http_server(port), ready=listening(port), log=log) as process:
        pids.append(process.pid)
        raise RuntimeError("the body")


def test_a_process_is_ended_when_the_body_raises(tmp_path: Path) -> None:
    port = free_port()
    pids: list[int] = []
    with pytest.raises(RuntimeError, match="the body"):
        _raise_while_running(port, tmp_path / "log", pids)
    assert has_ended(pids[0])
    assert not listening(port)()


def test_a_process_starts_again_on_its_port_after_a_stop_and_after_a_kill(tmp_path: Path) -> None:
    port = free_port()
    with running(_http_server(port), ready=listening(port), log=tmp_path / "log") as process:
        first = process.pid
        process.stop()
        assert not process.alive
        process.start()
        second = process.pid
        process.kill()
        assert not listening(port)()
        process.start()
        assert listening(port)()
        assert len({first, second, process.pid}) == 3


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f"trap '' TERM; sleep 1000 & echo $! >{child}; while :; do sleep 1000; done"
    process = ServerProcess(
        ["sh", "-c", script], ready=lambda: _written(child), log=tmp_path / "log", grace=0.1
    )
    process.start()
    pid = process.pid
    process.stop()
    assert has_ended(pid)
    assert comes_true(lambda: has_ended(int(child.read_text())))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_process_dies_with_the_one_that_started_it(tmp_path: Path, frozen: bool) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from tests.servers.process import ServerProcess
        log = Path(sys.argv[1])
        process = ServerProcess(["sleep", "1000"], ready=lambda: True, log=log)
        process.start()
        print(process.pid, flush=True)
        sys.stdin.read()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert comes_true(lambda: psutil.Process(pid).name() == "sleep")
        if frozen:
            os.kill(pid, signal.SIGSTOP)
        parent.send_signal(signal.SIGKILL)
    assert comes_true(lambda: has_ended(pid))


def test_a_frozen_process_continues_when_the_one_that_froze_it_dies(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from tests.servers.process import frozen
        with frozen(int(sys.argv[1])):
            print(flush=True)
            sys.stdin.read()
        """
    )
    with running(["sleep", "1000"], ready=lambda: True, log=tmp_path / "log") as process:
        argv = [sys.executable, "-c", script, str(process.pid)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"\n"
            assert comes_true(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
            parent.send_signal(signal.SIGKILL)
        assert comes_true(lambda: psutil.Process(process.pid).status() != psutil.STATUS_STOPPED)


def test_a_server_that_ends_at_once_reports_the_end_of_its_log(tmp_path: Path) -> None:
    process = ServerProcess(
        ["sh", "-c", "echo no such luck; exit 3"], ready=lambda: False, log=tmp_path / "log"
    )
    with pytest.raises(ServerFailed, match="no such luck"):
        process.start()
    assert not process.alive


def test_a_server_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    pids: list[int] = []

    def never() -> bool:
        pids.append(process.pid)
        return False

    process = ServerProcess(["sleep", "1000"], ready=never, log=tmp_path / "log", start_timeout=0.3)
    with pytest.raises(ServerFailed, match=r"not ready after 0\.3 s"):
        process.start()
    assert has_ended(pids[0])


def test_a_server_does_not_see_the_certificates_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NOT_FOR_CHILDREN:
        monkeypatch.setenv(name, "/nowhere")
    log = tmp_path / "log"
    done = tmp_path / "done"
    with running(
        ["sh", "-c", f"env; echo >{done}; exec sleep 1000"],
        ready=lambda: _written(done),
        log=log,
        env={"OF_ITS_OWN": "yes"},
    ):
        seen = log.read_text()
    assert "/nowhere" not in seen
    assert "OF_ITS_OWN=yes" in seen


def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(ServerMissing, match="Debian's package a-package"):
        require("no-such-program", "a-package")


@pytest.mark.parametrize(("required", "outcome"), [("", "2 skipped"), ("1", "1 failed, 1 error")])
def test_a_missing_server_skips_its_tests_unless_all_are_required(
    required: str, outcome: str, tmp_path: Path
) -> None:
    test = tmp_path / "test_with_servers.py"
    test.write_text(
        textwrap.dedent(
            """
            import pytest
            from tests.servers.process import require

            @pytest.fixture
            def server():
                require("no-such-program", "a-package")

            def test_with_a_fixture(server): pass

            def test_that_starts_it_itself():
                require("no-such-program", "a-package")
            """
        )
    )
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rsfE", test],
        env={**os.environ, "REQUIRE_SERVERS": required},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{outcome} in" in ended.stdout
    assert "Debian's package a-package" in ended.stdout


def test_free_ports_are_all_different() -> None:
    assert len({free_port() for _ in range(50)}) == 50


def test_processes_that_run_at_the_same_time_share_no_free_port() -> None:
    ours = [free_port() for _ in range(20)]
    code = f"""
from tests.servers import process
process._PORTS = [*{ours * 50}, *range(31_000, 31_200)]
print(*(process.free_port() for _ in range(20)))
"""
    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    theirs = [int(port) for port in ended.stdout.split()]
    assert len(theirs) == 20
    assert not set(theirs) & set(ours)
