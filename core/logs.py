"""The log: one event a line on standard error, `what happened key=value ...` or JSON, times in UTC."""

from __future__ import annotations

import copy
import json
import logging
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Literal

_FIELD = re.compile(r"(?:(?P<name>\w+)=)?(?P<conversion>%%|%[-#0 +]*\d*(?:\.\d+)?[diouxXeEfFgGcrsa])")
_PLAIN = re.compile(r'[^\s"=\\\x00-\x1f\x7f]+\Z')
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
# A scheme of HTTP authentication and what looks like its credentials: 8 characters or more with a digit or =.
_CREDENTIALS = re.compile(r"(Bearer|Basic|OAuth) +(?=[^\s\"]*[0-9=])[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)

LogFormat = Literal["text", "json"]

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

log = logging.getLogger(__name__)

REPEAT_SECONDS = 60.0
"""How often an ongoing outage is logged."""


def set_up_logging(debug: bool) -> None:
    """Log to standard error, at level INFO or DEBUG: warnings and uncaught exceptions too."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter())
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    for name in ("botocore", "boto3", "s3transfer"):
        # At DEBUG they log headers and URLs with signatures (urllib3: core/http/client.py).
        logging.getLogger(name).setLevel(logging.WARNING)
    install_hooks()


def install_hooks() -> None:
    """Log Python's warnings and what ends a thread or the program, instead of printing them."""
    logging.captureWarnings(True)
    sys.excepthook = lambda *raised: log.critical("ended by an internal error", exc_info=raised)
    threading.excepthook = _log_end_of_thread


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        log.critical(
            "thread ended by an internal error name=%s",
            ended.thread.name if ended.thread else "unknown",
            exc_info=ended.exc_value,
        )


def set_log_format(log_format: LogFormat) -> None:
    """Change the format of the handler that `set_up_logging` installed."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, FieldFormatter):
            handler.setFormatter(JsonFormatter() if log_format == "json" else FieldFormatter())


def current_request_id() -> str | None:
    """Return the id of the request or job run that this thread works for, or None."""
    return _request_id.get()


def choose_request_id(proposed: str | None) -> str:
    """Return the caller's id if it is short and plain, else a new one."""
    if proposed is not None and _REQUEST_ID.match(proposed):
        return proposed
    return secrets.token_hex(8)


def start_in_context(name: str, target: Callable[[], object]) -> threading.Thread:
    """Run `target` in a daemon thread, whose log lines and requests have the same id as this one's."""
    thread = threading.Thread(target=copy_context().run, args=(target,), name=name, daemon=True)
    thread.start()
    return thread


@contextmanager
def request_id(value: str) -> Iterator[None]:
    """Add `request_id=value` to each line that is logged in the block."""
    token = _request_id.set(value)
    try:
        yield
    finally:
        _request_id.reset(token)


class FieldFormatter(logging.Formatter):
    """Quotes values that would be ambiguous to a parser of `key=value`: `reason="no route"`.

    A field is `name=%s` in the message's format string. Values with spaces, quotes or control characters
    become JSON strings; others are unchanged. A traceback is a field too: an event is always one line.
    """

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
        )
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of `record`."""
        arguments, raised = record.args, record.exc_info
        record = copy.copy(record)
        record.exc_info = record.exc_text = None
        if isinstance(arguments, tuple) and arguments:
            record.msg, record.args = _fill(str(record.msg), arguments, _quoted), None
        line = super().format(record).replace("\r", "\\r").replace("\n", "\\n")
        if raised:
            line += f" traceback={json.dumps(self.formatException(raised), ensure_ascii=False)}"
        return _without_credentials(line)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line without the traceback."""
        line = super().formatMessage(record)
        identity = current_request_id()
        return line if identity is None else f"{line} request_id={identity}"


class JsonFormatter(FieldFormatter):
    """Writes a JSON object a line: `time`, `level`, `logger`, `event`; `request_id` and `fields` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of `record`."""
        event, fields = _split(record)
        line: dict[str, object] = {
            "time": f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "event": _without_credentials(event),
        }
        if (identity := current_request_id()) is not None:
            line["request_id"] = identity
        if fields:
            line["fields"] = {name: _without_credentials(value) for name, value in fields.items()}
        if record.exc_info:
            line["traceback"] = _without_credentials(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def _without_credentials(text: str) -> str:
    return _CREDENTIALS.sub(r"\1 [removed]", text)


def _split(record: logging.LogRecord) -> tuple[str, dict[str, str]]:
    """Return the message without its fields, and these by name."""
    fields: dict[str, str] = {}

    def keep(name: str, value: str) -> str:
        fields[name] = value
        return ""

    if not isinstance(record.args, tuple) or not record.args:
        return record.getMessage(), {}
    event = _fill(str(record.msg), record.args, keep)
    return " ".join(event.split()), fields


def _quoted(name: str, value: str) -> str:
    return f"{name}={value if _PLAIN.match(value) else json.dumps(value, ensure_ascii=False)}"


def _fill(message: str, arguments: tuple[object, ...], show: Callable[[str, str], str]) -> str:
    """Return `message % arguments`, in which `show(name, value)` takes the place of each field."""
    values = iter(arguments)

    def one(found: re.Match[str]) -> str:
        if found["conversion"] == "%%":
            return "%"
        value: str = found["conversion"] % (next(values),)
        return value if found["name"] is None else show(found["name"], value)

    try:
        return _FIELD.sub(one, message)
    except (StopIteration, TypeError, ValueError):
        # The same error as from logging, for a wrong call.
        return message % arguments


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
        """Record a failure."""
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
        """Record a success, which ends an outage."""
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
