"""Hashing a layer: the result does not depend on the reads, and every stream ends."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import core.torrents.hashing
from core.errors import Interrupted, SizeMismatch
from core.torrents.hashing import BUFFER_SIZE, HALF, INLINE_SIZE, LayerHashes, PieceHasher, hash_layer

MIB = 1024 * 1024
RING = 2 * HALF * BUFFER_SIZE
# More than the ring of buffers holds, and no multiple of anything.
LARGE = RING + 3 * MIB + 12345


class Dribble:
    """Returns `content` in reads of at most these lengths, in turn."""

    def __init__(self, content: bytes, lengths: Iterable[int]) -> None:
        self._content = content
        self._lengths: Iterator[int] = chain(lengths, repeat(len(content) or 1))
        self.position = 0

    def readinto(self, buffer: memoryview, /) -> int:
        end = self.position + min(next(self._lengths), len(buffer))
        part = self._content[self.position : end]
        buffer[: len(part)] = part
        self.position += len(part)
        return len(part)


class Zeros:
    """Returns endless zeros, or `size` of them; raises at byte `breaks_at`."""

    def __init__(self, size: float = float("inf"), breaks_at: float = float("inf")) -> None:
        self._size = size
        self._breaks_at = breaks_at
        self.given = 0

    def readinto(self, buffer: memoryview, /) -> int:
        if self.given >= self._breaks_at:
            raise ConnectionResetError("reset by the test")
        count = int(min(len(buffer), self._size - self.given))
        self.given += count
        return count


def hashed_plainly(content: bytes, piece_length: int) -> LayerHashes:
    """Return the expected hashes, computed as in BEP 3."""
    pieces = [content[start : start + piece_length] for start in range(0, len(content), piece_length)]
    digests = b"".join(hashlib.sha1(piece).digest() for piece in pieces)
    return LayerHashes(len(content), hashlib.sha256(content).hexdigest(), piece_length, digests)


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    """No test here may leave a thread behind."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture(params=["in one thread", "in three threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hash even the smallest layer in that many threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.torrents.hashing, "INLINE_SIZE", 2**60 if request.param == "in one thread" else 0)
        yield


@given(
    content=st.binary(max_size=300),
    parts=st.lists(st.integers(min_value=0, max_value=70)),
    piece_length=st.integers(min_value=1, max_value=64),
)
def test_pieces_do_not_depend_on_how_the_stream_was_cut(
    content: bytes, parts: list[int], piece_length: int
) -> None:
    hasher = PieceHasher(piece_length)
    position = 0
    for length in [*parts, len(content)]:
        hasher.update(memoryview(content)[position : position + length])
        position += length
    assert hasher.digests() == hashed_plainly(content, piece_length).pieces


@pytest.mark.usefixtures("threads")
class TestInOneThreadAndInThree:
    # The fixture does not depend on the example.
    @given(
        content=st.binary(min_size=1, max_size=500),
        reads=st.lists(st.integers(min_value=1, max_value=90)),
        piece_length=st.integers(min_value=1, max_value=128),
        buffer_size=st.integers(min_value=1, max_value=100),
    )
    def test_reads_pieces_and_buffers_of_any_length_give_the_same_hashes(
        self, content: bytes, reads: list[int], piece_length: int, buffer_size: int
    ) -> None:
        reader = Dribble(content, reads)
        hashes = hash_layer(reader, len(content), piece_length, buffer_size=buffer_size)
        assert hashes == hashed_plainly(content, piece_length)

    @given(
        content=st.binary(max_size=200),
        reads=st.lists(st.integers(min_value=1, max_value=90)),
        buffer_size=st.integers(min_value=1, max_value=100),
        missing=st.integers(min_value=1, max_value=100),
    )
    def test_a_stream_too_short_is_refused_with_its_length(
        self, content: bytes, reads: list[int], buffer_size: int, missing: int
    ) -> None:
        with pytest.raises(SizeMismatch) as caught:
            hash_layer(Dribble(content, reads), len(content) + missing, 16, buffer_size=buffer_size)
        assert (caught.value.expected, caught.value.got) == (len(content) + missing, len(content))

    @given(
        content=st.binary(min_size=1, max_size=200),
        reads=st.lists(st.integers(min_value=1, max_value=90)),
        buffer_size=st.integers(min_value=1, max_value=100),
        surplus=st.integers(min_value=1, max_value=100),
    )
    def test_a_stream_too_long_is_read_one_byte_past_the_limit(
        self, content: bytes, reads: list[int], buffer_size: int, surplus: int
    ) -> None:
        size = max(0, len(content) - surplus)
        reader = Dribble(content, reads)
        with pytest.raises(SizeMismatch) as caught:
            hash_layer(reader, size, 16, buffer_size=buffer_size)
        assert (caught.value.expected, caught.value.got) == (size, size + 1)
        assert reader.position == size + 1

    def test_an_endless_stream_is_abandoned_one_byte_past_the_limit(self) -> None:
        reader = Zeros()
        with pytest.raises(SizeMismatch):
            hash_layer(reader, LARGE, MIB)
        assert reader.given == LARGE + 1

    @pytest.mark.parametrize("at", [0, 1, BUFFER_SIZE, LARGE - 1])
    def test_an_error_of_the_reader_is_raised_unchanged(self, at: int) -> None:
        with pytest.raises(ConnectionResetError, match="by the test"):
            hash_layer(Zeros(LARGE, breaks_at=at), LARGE, MIB)

    @pytest.mark.parametrize("reads", [0, 1, 2 * HALF + 1])
    def test_an_interruption_is_seen_before_the_next_read(self, reads: int) -> None:
        answers = chain(repeat(False, reads), repeat(True))
        reader = Zeros(LARGE)
        with pytest.raises(Interrupted):
            hash_layer(reader, LARGE, MIB, interrupted=lambda: next(answers))
        assert reader.given == reads * BUFFER_SIZE

    @pytest.mark.parametrize("parts_before", [0, 1, HALF, HALF + 5])
    def test_an_error_in_a_hash_is_raised_too(
        self, parts_before: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(PieceHasher, "update", failing_after(parts_before, PieceHasher.update))
        with pytest.raises(MemoryError, match="of the test"):
            hash_layer(Zeros(LARGE), LARGE, MIB)

    def test_an_error_in_hashing_the_last_part_is_not_lost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PieceHasher, "update", failing_after(2, PieceHasher.update))
        with pytest.raises(MemoryError, match="of the test"):
            hash_layer(Zeros(3 * BUFFER_SIZE), 3 * BUFFER_SIZE, MIB)

    def test_a_file_that_is_truncated_while_it_is_read_is_too_short(self, tmp_path: Path) -> None:
        path = tmp_path / "layer"
        path.write_bytes(bytes(LARGE))
        asked = iter(range(100))

        def truncate_at_the_third_read() -> bool:
            if next(asked) == 2:
                os.truncate(path, 2 * BUFFER_SIZE + 10)
            return False

        with path.open("rb", buffering=0) as file, pytest.raises(SizeMismatch) as caught:
            hash_layer(file, LARGE, MIB, interrupted=truncate_at_the_third_read)
        assert caught.value.got == 2 * BUFFER_SIZE + 10


def failing_after(
    parts: int, update: Callable[[PieceHasher, memoryview], None]
) -> Callable[[PieceHasher, memoryview], None]:
    counted = iter(range(1000))

    def failing(self: PieceHasher, part: memoryview) -> None:
        if next(counted) == parts:
            raise MemoryError("out of the memory of the test")
        update(self, part)

    return failing


@pytest.mark.parametrize("size", [1, INLINE_SIZE - 1, INLINE_SIZE, INLINE_SIZE + 1, RING, LARGE])
@pytest.mark.parametrize("piece_length", [64 * 1024, 16 * MIB])
def test_layers_of_any_size_are_hashed_correctly(size: int, piece_length: int) -> None:
    content = os.urandom(4097) * (size // 4097 + 1)
    hashes = hash_layer(io.BytesIO(content[:size]), size, piece_length)
    assert hashes == hashed_plainly(content[:size], piece_length)
    assert hashes.piece_count == -(-size // piece_length)


def test_memory_does_not_grow_with_the_layer() -> None:
    def peak(size: int) -> int:
        tracemalloc.start()
        try:
            hash_layer(Zeros(size), size, 16 * MIB)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(256 * MIB) < peak(16 * MIB) + 100_000 < 12 * MIB
