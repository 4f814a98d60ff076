"""Requests for one URL: as many as go through (wrk), or a steady few whose times are looked at."""

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

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """Requests per second; the time that half of them, and 99 of 100, took at most, in milliseconds."""

    rate: float
    p50: float
    p99: float


def flood(url: str, clients: int, seconds: float, headers: dict[str, str]) -> Load:
    """As many requests as `clients` get answered one after the other. Raises if an answer is no 2xx."""
    sent = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    wrk = [require("wrk", "wrk"), "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout=20s", "--latency"]
    said = subprocess.run([*wrk, *sent, url], check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{url}: {said}")
    return Load(float(_found(r"Requests/sec:\s+([\d.]+)", said)[0]), _time("50%", said), _time("99%", said))


def steady(url: str, rate: float, seconds: float, headers: dict[str, str], threads: int = 10) -> Load:
    """`rate` requests per second, each sent when its moment comes, whatever became of the others.

    A request that has to wait for a free thread has waited since its own moment.
    """
    target = urlsplit(url)
    times: list[float] = []
    begin = time.perf_counter() + 0.1

    def ask(first: int) -> None:
        connection = HTTPConnection(target.hostname or "", target.port, timeout=30)
        for number in range(first, int(rate * seconds), threads):
            moment = begin + number / rate
            time.sleep(max(0.0, moment - time.perf_counter()))
            connection.request("GET", target.path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{url}: {answer.status}")
            times.append((time.perf_counter() - moment) * 1000)
        connection.close()

    asking = [threading.Thread(target=ask, args=(first,)) for first in range(threads)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    if len(times) != int(rate * seconds):
        raise RuntimeError(f"{url}: {len(times)} of {int(rate * seconds)} requests were answered")
    cuts = statistics.quantiles(times, n=100)
    return Load(rate, cuts[49], cuts[98])


def processor_seconds(pid: int) -> float:
    """Processor time that a process and its children have used so far."""
    total = 0.0
    for one in family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICK
    return total


def resident_mib(pid: int) -> float:
    """Memory that a process and its children hold, each counted by itself, in MiB."""
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in family(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def family(pid: int) -> list[int]:
    """A process, and all below it."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            children += family(int(child))
    return [pid, *children]


def _time(share: str, said: str) -> float:
    number, unit = _found(rf"{share}\s+([\d.]+)(us|ms|s)\s", said)
    return float(number) * _UNITS[unit]


def _found(pattern: str, said: str) -> tuple[str, ...]:
    found = re.search(pattern, said)
    if found is None:
        raise RuntimeError(f"wrk says something else than expected: {said}")
    return found.groups()
