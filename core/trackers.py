"""Announce to a tracker by HTTP (BEP 3) or UDP (BEP 15), to learn whether it accepts a torrent."""

from __future__ import annotations

import re
import secrets
import socket
import struct
import time
from typing import Literal
from urllib.parse import quote, urlsplit

from core.errors import BadAnswer, Refused, RemoteError, TimedOut, Unavailable
from core.http.client import HttpClient

Event = Literal["started", "stopped"]

SECONDS = 2.0
"""The time-out of a packet or a request to a tracker."""

_LIMIT = 64 * 1024
_UDP_MAGIC = 0x41727101980
_CONNECT, _ANNOUNCE, _ERROR = 0, 1, 3
_UDP_EVENTS: dict[Event, int] = {"started": 2, "stopped": 3}
_UDP_TRIES = 2
_FAILURE = re.compile(rb"14:failure reason(\d{1,4}):")
_PORT = 9  # discard: no peer can be reached there


class Announcer:
    """Announces as one peer without data that cannot be reached. `http` has short time-outs."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._peer_id = b"-DT0001-" + secrets.token_hex(6).encode()

    def announce(self, tracker: str, info_hash: bytes, event: Event, left: int = 1) -> str:
        """Announce, and return a line for the operator if the tracker accepts it.

        Raises RemoteError, which shows only the host of the tracker, as its path may be a secret. Refused is
        the tracker's own refusal.
        """
        send = self._announce_udp if tracker.startswith("udp://") else self._announce_http
        send(tracker, info_hash, event, left)
        return f"{tracker_name(tracker)} accepts announces"

    def _announce_http(self, tracker: str, info_hash: bytes, event: Event, left: int) -> None:
        query = (
            f"info_hash={quote(info_hash, safe='')}&peer_id={quote(self._peer_id)}&port={_PORT}"
            f"&uploaded=0&downloaded=0&left={left}&compact=1&numwant=0&event={event}"
        )
        where = tracker_name(tracker)
        try:
            answer = self._http.fetch(
                "GET", f"{tracker}{'&' if '?' in tracker else '?'}{query}", limit=_LIMIT, seconds=SECONDS
            )
        except TimedOut as error:
            raise TimedOut(where, error.seconds) from error
        except RemoteError as error:
            raise Unavailable(where, error.why) from error
        if failure := _FAILURE.search(answer.body):
            raise Refused(where, None, _shown(answer.body[failure.end() :][: int(failure[1])]))
        if answer.status != 200 or not answer.body.startswith(b"d") or b"8:intervali" not in answer.body:
            raise BadAnswer(where, f"status {answer.status} without a tracker's answer")

    def _announce_udp(self, tracker: str, info_hash: bytes, event: Event, left: int) -> None:
        where = tracker_name(tracker)
        try:
            parts = urlsplit(tracker)
            host, port = parts.hostname or "", parts.port or 80
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind, protocol) as udp:
                udp.connect(address)
                call = _UdpCall(udp, where)
                answer = call(_CONNECT, _UDP_MAGIC.to_bytes(8), b"", at_least=16)
                connection = answer[8:16]
                request = struct.pack(
                    "!20s20sQQQIIIiH",
                    *(info_hash, self._peer_id, 0, left, 0, _UDP_EVENTS[event], 0),
                    *(secrets.randbits(32), 0, _PORT),
                )
                call(_ANNOUNCE, connection, request, at_least=20)
        except TimeoutError:
            raise TimedOut(where, SECONDS) from None
        except (OSError, ValueError) as error:
            raise Unavailable(where, getattr(error, "strerror", None) or str(error)) from error


class _UdpCall:
    """Sends a packet, and repeats it if no answer arrives."""

    def __init__(self, udp: socket.socket, where: str) -> None:
        self._udp = udp
        self._where = where

    def __call__(self, action: int, connection: bytes, body: bytes, *, at_least: int) -> bytes:
        """Return the answer to this action. Raises Refused, TimeoutError, OSError."""
        until = time.monotonic() + SECONDS
        for left in range(_UDP_TRIES, 0, -1):
            transaction = secrets.token_bytes(4)
            self._udp.send(connection + struct.pack("!I", action) + transaction + body)
            try:
                return self._receive(action, transaction, at_least, (until - time.monotonic()) / left)
            except TimeoutError:
                continue
        raise TimeoutError

    def _receive(self, action: int, transaction: bytes, at_least: int, seconds: float) -> bytes:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._udp.settimeout(left)
            packet = self._udp.recv(2048)
            if len(packet) < 8 or packet[4:8] != transaction:
                continue  # of an earlier attempt, or from another sender
            kind = int.from_bytes(packet[:4])
            if kind == _ERROR:
                raise Refused(self._where, None, _shown(packet[8:]))
            if kind == action and len(packet) >= at_least:
                return packet
        raise TimeoutError


def tracker_name(tracker: str) -> str:
    """Return scheme and host of an announce URL, without its path and query, which may be a passkey."""
    parts = urlsplit(tracker)
    return f"{parts.scheme}://{parts.netloc}"


def _shown(text: bytes) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text[:200].decode(errors="replace"))
