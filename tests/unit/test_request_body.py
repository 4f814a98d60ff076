"""Request bodies: read completely, within the limit, and checked against their length."""

from __future__ import annotations

import io
from typing import Any

import bottle
import pytest

from web.request import read_body


class Reading(io.BytesIO):
    """A body that counts the bytes read, and refuses unlimited reads."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert 0 < size <= 1_000_000
        part = super().read(size)
        self.taken += len(part)
        return part


def environ(content: bytes, **more: Any) -> dict[str, Any]:
    return {"wsgi.input": Reading(content), **more}


def refusal(request: dict[str, Any], limit: int = 100) -> int:
    with pytest.raises(bottle.HTTPResponse) as caught:
        read_body(request, limit)
    status: int = caught.value.status_code
    return status


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_a_body_up_to_the_limit_is_read_completely(size: int) -> None:
    assert read_body(environ(b"x" * size, CONTENT_LENGTH=str(size)), 100) == b"x" * size


def test_bytes_after_the_body_stay_on_the_connection() -> None:
    request = environ(b"bodyGET / HTTP/1.1", CONTENT_LENGTH="4")
    assert read_body(request, 100) == b"body"
    assert request["wsgi.input"].taken == 4


@pytest.mark.parametrize("length", ["101", "50000000", "9" * 5000])
def test_a_longer_one_is_413_before_any_of_it_is_read(length: str) -> None:
    request = environ(b"x" * 200, CONTENT_LENGTH=length)
    assert refusal(request) == 413
    assert request["wsgi.input"].taken == 0


def test_one_without_a_length_is_read_to_its_end() -> None:
    assert read_body(environ(b"x" * 100), 100) == b"x" * 100


def test_one_without_a_length_is_413_one_byte_beyond_the_limit() -> None:
    request = environ(b"x" * 1_000_000)
    assert refusal(request) == 413
    assert request["wsgi.input"].taken == 101


def test_a_request_without_a_body_has_an_empty_one() -> None:
    assert read_body(environ(b""), 100) == b""
    assert read_body(environ(b"", CONTENT_LENGTH=""), 100) == b""


def test_a_body_shorter_than_its_length_is_400() -> None:
    assert refusal(environ(b"x" * 50, CONTENT_LENGTH="51")) == 400


@pytest.mark.parametrize("length", ["-1", "+1", "1e3", "1_0", " 1", "0x10", "٣", "²", "one"])
def test_a_content_length_that_is_not_a_number_is_400(length: str) -> None:
    assert refusal(environ(b"x" * 50, CONTENT_LENGTH=length)) == 400


def test_a_lost_connection_is_400() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ConnectionResetError

    assert refusal({"wsgi.input": Broken(), "CONTENT_LENGTH": "5"}) == 400
