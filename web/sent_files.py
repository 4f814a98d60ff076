"""Files that the kernel copies to a connection by itself (sendfile(2)): no byte passes through Python."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.task import WSGITask


@dataclass(frozen=True, slots=True)
class FilePart:
    """`length` bytes of an open file from `offset` on."""

    descriptor: int
    offset: int
    length: int

    def send_to(self, connection: socket.socket) -> int:
        """How many of the bytes `connection` took at once.

        Raises OSError as socket.send does, and ConnectionAbortedError if the file has none of the bytes.
        """
        count = os.sendfile(connection.fileno(), self.descriptor, self.offset, self.length)
        if not count:
            # Waiting would not help: somebody cut the file off.
            raise ConnectionAbortedError("the file ended before its size")
        return count


class SentFile(ReadOnlyFileBasedBuffer):  # type: ignore[misc]  # waitress has no types
    """`wsgi.file_wrapper` (PEP 3333) for files with a `fileno`: gives what is to be sent, not its bytes."""

    def get(self, numbytes: int = -1, skip: bool = False) -> FilePart:
        """What the connection sends next: all that is left, however few bytes its socket says to take."""
        return FilePart(self.file.fileno(), self.file.tell(), self.remain)


class FileSendingTask(WSGITask):  # type: ignore[misc]  # waitress has no types
    """A request whose answer may be a SentFile, and is the connection's last once the server is to end."""

    def get_environment(self) -> dict[str, object]:
        """As waitress makes it, but for the wrapper of files."""
        environ: dict[str, object] = super().get_environment()
        environ["wsgi.file_wrapper"] = SentFile
        return environ

    def build_response_header(self) -> bytes:
        """As waitress makes it, without what it adds to answers of the registry's: a `Via` where they have a
        `Server`, and the end of a body without length where there is none, after a HEAD.
        """
        if self.channel.server.task_dispatcher.hurried:
            self.set_close_on_finish()
        head: bytes = super().build_response_header()
        if self.request.command == "HEAD":
            self.chunked_response = False
        if self.close_on_finish:
            # What it has for clients of HTTP/1.0, beside the close that was said above.
            head = head.replace(b"\r\nConnection: Keep-Alive\r\n", b"\r\n", 1)
        return head.replace(b"\r\nVia: waitress\r\n", b"\r\n", 1)
