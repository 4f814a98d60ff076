"""The log: one event a line on standard error, `what happened key=value ...`, times in UTC."""

from __future__ import annotations

import copy
import json
import logging
import re
import threading
import time
from collections.abc import Callable

_FIELD = re.compile(r"=%[-#0 +]*\d*(?:\.\d+)?[diouxXeEfFgGcrsa]|%%|%[-#0 +]*\d*(?:\.\d+)?[diouxXeEfFgGcrsa]")
_PLAIN = re.compile(r'[^\s"=\\]+\Z')

REPEAT_SECONDS = 60.0
"""How often an outage that goes on is logged."""


def set_up_logging(debug: bool) -> None:
    """Log to standard error, from INFO on, or from DEBUG on."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter())
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    for name in ("botocore", "boto3", "s3transfer"):
        # At DEBUG they log headers and URLs, and with them signatures (urllib3: core/http/client.py).
        logging.getLogger(name).setLevel(logging.WARNING)


class FieldFormatter(logging.Formatter):
    """Quotes values that a parser of `key=value` could not tell from what follows: `reason="no route"`.

    A field is `name=%s` in the message's format string. Values of letters and digits stay as they are; those
    with spaces, quotes or line breaks become JSON strings.
    """

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
        )
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of `record`."""
        arguments = record.args
        if isinstance(arguments, tuple) and arguments:
            record = copy.copy(record)
            record.msg, record.args = _fill(str(record.msg), arguments), None
        return super().format(record)


def _fill(message: str, arguments: tuple[object, ...]) -> str:
    """Return `message % arguments` with the values of fields quoted where they need it."""
    values = iter(arguments)

    def one(found: re.Match[str]) -> str:
        conversion = found[0]
        if conversion == "%%":
            return "%"
        if not conversion.startswith("="):
            return conversion % (next(values),)
        value = conversion[1:] % (next(values),)
        return "=" + (value if _PLAIN.match(value) else json.dumps(value, ensure_ascii=False))

    try:
        filled = _FIELD.sub(one, message)
    except (StopIteration, TypeError, ValueError):
        # As logging does it: with the error where the call was wrong.
        return message % arguments
    return filled


class OutageLog:
    """Logs an outage once when it begins, then once a minute with a count, and its end.

    `what` names what fails: "database", "metainfo store", "job brew". For any number of threads.
    """

    def __init__(self, log: logging.Logger, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._what = what
        self._clock = clock
        self._lock = threading.Lock()
        self._began: float | None = None
        self._logged = 0.0
        self._failures = 0

    @property
    def out(self) -> bool:
        """Whether the last call was `failed`."""
        return self._began is not None

    def failed(self, reason: object) -> None:
        """Note a failure."""
        now = self._clock()
        with self._lock:
            self._failures += 1
            if self._began is None:
                self._began = self._logged = now
                self._log.warning(f"{self._what} failed reason=%s", reason)
            elif now - self._logged >= REPEAT_SECONDS:
                self._logged = now
                self._log.warning(
                    f"{self._what} still fails seconds=%d failures=%d reason=%s",
                    now - self._began, self._failures, reason,
                )  # fmt: skip

    def succeeded(self) -> None:
        """Note a success, which ends an outage."""
        if self._began is None:
            return
        with self._lock:
            if self._began is not None:
                self._log.warning(
                    f"{self._what} works again seconds=%d failures=%d",
                    self._clock() - self._began,
                    self._failures,
                )
            self._began, self._failures = None, 0
