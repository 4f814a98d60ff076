"""Health: probe the dependencies of a service, at most every few seconds, with a short time-out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import DockerTorrentsError
from core.logs import start_in_context

log = logging.getLogger(__name__)

KEEP_SECONDS = 10.0
"""How long results are kept: a load balancer may call as often as it likes."""
LIMIT_SECONDS = 3.0
"""How long a probe may take before it counts as failed."""

Status = Literal["ok", "degraded", "down"]


@dataclass(frozen=True, slots=True)
class Part:
    """The result of probing one dependency of the service.

    `required`: the service is down without it. `time` is when it was probed or ran (Unix time), `seconds` how
    long that took. `reason` is one line, without secrets.
    """

    ok: bool
    reason: str
    time: float
    seconds: float = 0.0
    required: bool = False


@dataclass(frozen=True)
class Probe:
    """A probe of one part. `run` returns a line about it, or several parts by name.

    An exception from `run` is the reason why the part failed.
    """

    name: str
    run: Callable[[], str | Mapping[str, Part]]
    required: bool = False


@dataclass(frozen=True)
class Health:
    """All parts by name."""

    parts: Mapping[str, Part]

    @property
    def status(self) -> Status:
        """`down` without a required part, `degraded` without another one."""
        failed = [part for part in self.parts.values() if not part.ok]
        if any(part.required for part in failed):
            return "down"
        return "degraded" if failed else "ok"

    @property
    def http_status(self) -> int:
        """Return 503 if it is down, else 200."""
        return 503 if self.status == "down" else 200

    def summary(self) -> dict[str, Any]:
        """Return the public part, for JSON."""
        return {"status": self.status}

    def details(self) -> dict[str, Any]:
        """Return everything, for JSON and operators."""
        parts = {
            name: {
                "status": "ok" if part.ok else "failed",
                "required": part.required,
                "time": round(part.time),
                "seconds": round(part.seconds, 3),
                "reason": part.reason,
            }
            for name, part in self.parts.items()
        }
        return {**self.summary(), "parts": parts}


class HealthCheck:
    """Runs probes in parallel, each in its own thread, and keeps their results for KEEP_SECONDS.

    One caller probes; the others get the earlier results. A probe that hangs counts as failed after
    LIMIT_SECONDS, and is not started again until it has ended.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        limit: float = LIMIT_SECONDS,
    ) -> None:
        self._probes = probes
        self._clock = clock
        self._timer = timer
        self._limit = limit
        self._checking = threading.Lock()
        self._last: Health | None = None
        self._checked = float("-inf")
        self._runs: dict[str, _Run] = {}

    def health(self) -> Health:
        """Return the result of the last seconds, probing if it is older."""
        last = self._last
        if last is not None and (self._is_fresh() or not self._checking.acquire(blocking=False)):
            return last
        if last is None:
            self._checking.acquire()
        try:
            if self._last is None or not self._is_fresh():
                self._last = self._check()
                self._checked = self._timer()
            return self._last
        finally:
            self._checking.release()

    def _is_fresh(self) -> bool:
        return self._timer() - self._checked < KEEP_SECONDS

    def _check(self) -> Health:
        for probe in self._probes:
            run = self._runs.get(probe.name)
            if run is None or run.ended.is_set():
                self._runs[probe.name] = _Run(probe, self._clock)
        until = time.monotonic() + self._limit
        parts: dict[str, Part] = {}
        for probe in self._probes:
            run = self._runs[probe.name]
            if run.ended.wait(max(0.0, until - time.monotonic())):
                parts.update(run.parts)
            else:
                waited = self._clock() - run.started
                reason = f"no answer for {max(waited, self._limit):.0f} s"
                parts[probe.name] = Part(False, reason, run.started, waited, probe.required)
        return Health(parts)


class _Run:
    """One run of a probe, in a thread that nothing waits for. `parts` is set once it has ended."""

    def __init__(self, probe: Probe, clock: Callable[[], float]) -> None:
        self._probe = probe
        self._clock = clock
        self.started = clock()
        self.ended = threading.Event()
        self.parts: Mapping[str, Part] = {}
        start_in_context(f"health {probe.name}", self._run)

    def _run(self) -> None:
        try:
            found = self._probe.run()
            self.parts = {self._probe.name: self._part(True, found)} if isinstance(found, str) else found
        except DockerTorrentsError as error:
            self.parts = {self._probe.name: self._part(False, " ".join(str(error).split()))}
        except Exception:
            log.exception("probe failed with an internal error part=%s", self._probe.name)
            self.parts = {self._probe.name: self._part(False, "internal error: see the log")}
        finally:
            self.ended.set()

    def _part(self, ok: bool, reason: str) -> Part:
        seconds = max(0.0, self._clock() - self.started)
        return Part(ok, reason, self.started, seconds, self._probe.required)
