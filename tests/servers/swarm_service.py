"""A stand-in for docker-torrents: the web seed and swarm calls of one layer, with leases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from core.swarm.chunks import Chunks
from core.swarm.messages import Lease, Peer, SeedsAnswer, SeedsRequest, SwarmAnswer, SwarmRequest

CAPABILITY = "c" * 40
_AGAIN = 0.3
_LEASES = 16


@dataclass
class SwarmService:
    """Serves `layer` in chunks of pieces of `piece_length` bytes. Its behaviour may be changed at any time."""

    layer: bytes
    piece_length: int
    url: str = ""
    web_seed_status: int = 0
    """The status for web seed requests, instead of bytes."""
    wrong_bytes: bool = False
    swarm_status: int = 0
    """The status for swarm calls, instead of an answer."""
    refuses_seeds: bool = False
    """Whether the capabilities of announced layers have expired."""
    lease_seconds: float = 600.0
    drip: float = 0.0
    """Seconds between two KiB of a web seed's answer."""
    on_read: Callable[[int, int], None] = lambda offset, length: None
    """Called before bytes are sent."""
    sent: int = 0
    reads: int = 0
    ended_reads: int = 0
    """The web seed requests whose handler has ended."""
    calls: int = 0
    announced: list[SeedsRequest] = field(default_factory=list)
    members: dict[str, tuple[str, SwarmRequest]] = field(default_factory=dict)
    named: dict[str, int] = field(default_factory=dict)
    """How many peers each node got last."""
    leases: dict[int, tuple[str, float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def web_seed(self) -> str:
        return f"{self.url}/v0/layers/{CAPABILITY}/{'0' * 64}"

    def join(self, ip: str, request: SwarmRequest) -> SwarmAnswer:
        with self.lock:
            self.calls += 1
            now = time.monotonic()
            chunks = Chunks.of(len(self.layer), self.piece_length).count
            if request.stopped:
                self.members.pop(request.node, None)
                self.leases = {c: lease for c, lease in self.leases.items() if lease[0] != request.node}
                return SwarmAnswer(peers=[], leases=[], again=_AGAIN, capability=CAPABILITY)
            self.members[request.node] = (ip, request)
            held = set(request.held_chunks)
            for _, other in self.members.values():
                held |= set(other.held_chunks)
            self.leases = {
                chunk: (node, until)
                for chunk, (node, until) in self.leases.items()
                if until > now and chunk not in held
            }
            self.named[request.node] = len(self.members) - 1
            mine = [chunk for chunk, (node, _) in self.leases.items() if node == request.node]
            for chunk in range(chunks):
                if len(mine) >= request.want or len(self.leases) >= _LEASES:
                    break
                if chunk not in self.leases and chunk not in held:
                    self.leases[chunk] = (request.node, now + self.lease_seconds)
                    mine.append(chunk)
            return SwarmAnswer(
                peers=[
                    Peer(ip=other_ip, port=other.port)
                    for node, (other_ip, other) in self.members.items()
                    if node != request.node
                ],
                leases=[Lease(chunk=chunk, seconds=self.lease_seconds) for chunk in mine],
                again=_AGAIN,
                capability=CAPABILITY,
            )

    def completed(self) -> set[str]:
        """Return the nodes that have reported completeness."""
        with self.lock:
            return {node for node, (_, request) in self.members.items() if request.complete}

    def forget(self) -> None:
        """Forget everything, like a restart."""
        with self.lock:
            self.members.clear()
            self.leases.clear()


@contextmanager
def start_swarm_service(layer: bytes, piece_length: int) -> Iterator[SwarmService]:
    """Run the service on a free port of 127.0.0.1."""
    service = SwarmService(layer, piece_length)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with service.lock:
                service.reads += 1
            try:
                self._send_bytes()
            finally:
                with service.lock:
                    service.ended_reads += 1

        def _send_bytes(self) -> None:
            first, last = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
            service.on_read(first, last - first + 1)
            if service.web_seed_status:
                self._reply(service.web_seed_status, b"")
                return
            data = service.layer[first : last + 1]
            if service.wrong_bytes:
                data = bytes(len(data))
            with service.lock:
                service.sent += len(data)
            self._reply(206, data, f"bytes {first}-{last}/{len(service.layer)}")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if service.swarm_status:
                self._reply(service.swarm_status, b"")
            elif self.path == "/v0/swarm":
                request = SeedsRequest.decode(body)
                service.announced.append(request)
                known = [None if service.refuses_seeds else CAPABILITY] * len(request.layers)
                self._reply(200, SeedsAnswer(again=600.0, capabilities=known).encode())
            else:
                answer = service.join(self.client_address[0], SwarmRequest.decode(body))
                self._reply(200, answer.encode())

        def _reply(self, status: int, body: bytes, content_range: str = "") -> None:
            with suppress(ConnectionError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if content_range:
                    self.send_header("Content-Range", content_range)
                self.end_headers()
                if not (service.drip and content_range):
                    self.wfile.write(body)
                    return
                for start in range(0, len(body), 1024):
                    self.wfile.write(body[start : start + 1024])
                    time.sleep(service.drip)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 512

        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore nodes that leave in the middle."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
