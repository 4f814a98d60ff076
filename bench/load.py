"""Requests for one URL: as many as possible (wrk), or at a fixed rate to measure their times."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from tests.servers.process import require

WARM_UP_SECONDS = 1
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """Requests per second; the median and the 99th percentile of the time, in milliseconds."""

    rate: float
    p50: float
    p99: float


def flood(url: str, clients: int, seconds: float, headers: dict[str, str]) -> Load:
    """Send as many requests as `clients` get answered one after the other. Raises if an answer is not 2xx."""
    sent = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    wrk = [require("wrk", "wrk"), "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout=20s", "--latency"]
    output = subprocess.run([*wrk, *sent, url], check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"{url}: {output}")
    rate = float(_found(r"Requests/sec:\s+([\d.]+)", output)[0])
    return Load(rate, _time("50%", output), _time("99%", output))


def steady(url: str, rate: float, seconds: float, headers: dict[str, str], threads: int = 10) -> Load:
    """Send `rate` requests per second, each at its time, independent of the others.

    The time that a request waits for a free thread is included. The requests of a first second are not
    counted: on a virtual machine whose host reclaims memory, pages that lay idle for seconds are slow once.
    """
    target = urlsplit(url)
    times: list[float] = []
    begin = time.perf_counter() + 0.1 + WARM_UP_SECONDS

    def send(first: int) -> None:
        connection = HTTPConnection(target.hostname or "", target.port, timeout=30)
        for number in range(first - int(rate * WARM_UP_SECONDS), int(rate * seconds), threads):
            moment = begin + number / rate
            time.sleep(max(0.0, moment - time.perf_counter()))
            connection.request("GET", target.path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{url}: {answer.status}")
            if number >= 0:
                times.append((time.perf_counter() - moment) * 1000)
        connection.close()

    senders = [threading.Thread(target=send, args=(first,)) for first in range(threads)]
    for thread in senders:
        thread.start()
    for thread in senders:
        thread.join()
    if len(times) != int(rate * seconds):
        raise RuntimeError(f"{url}: {len(times)} of {int(rate * seconds)} requests were answered")
    cuts = statistics.quantiles(times, n=100)
    return Load(rate, cuts[49], cuts[98])


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process and its children so far."""
    total = 0.0
    for one in family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICK
    return total


def resident_mib(pid: int) -> float:
    """Return the memory of a process and its children, added up, in MiB."""
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in family(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            children += family(int(child))
    return [pid, *children]


def _time(share: str, output: str) -> float:
    number, unit = _found(rf"{share}\s+([\d.]+)(us|ms|s)\s", output)
    return float(number) * _UNITS[unit]


def _found(pattern: str, output: str) -> tuple[str, ...]:
    found = re.search(pattern, output)
    if found is None:
        raise RuntimeError(f"unexpected output of wrk: {output}")
    return found.groups()
