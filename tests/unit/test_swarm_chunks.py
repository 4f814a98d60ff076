"""Chunks: the division of a layer, and the bitmap of chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.swarm.bitmap import Bitmap
from core.swarm.chunks import (
    MAX_CHUNK_LENGTH,
    MAX_CHUNKS,
    MIN_CHUNK_LENGTH,
    PREFERRED_CHUNKS,
    Chunks,
    chunk_length,
)
from core.torrents.piece_length import piece_length

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

SIZES = st.integers(min_value=1, max_value=1024 * GIB)


@pytest.mark.parametrize(
    ("size", "length", "count"),
    [
        (1, 256 * KIB, 1),
        (256 * KIB, 256 * KIB, 1),
        (256 * KIB + 1, 256 * KIB, 2),
        (64 * MIB, 256 * KIB, 256),
        (64 * MIB + 1, 512 * KIB, 129),
        (4 * GIB, 16 * MIB, 256),
        (4 * GIB + 1, 16 * MIB, 257),
        (1024 * GIB, 16 * MIB, MAX_CHUNKS),
    ],
)
def test_the_chunk_length_is_the_smallest_power_of_two_that_gives_at_most_256_chunks(
    size: int, length: int, count: int
) -> None:
    chunks = Chunks.of(size, piece_length(size))

    assert (chunks.length, chunks.count) == (length, count)


@given(SIZES)
def test_the_rule_applies_to_every_size(size: int) -> None:
    length = chunk_length(size, piece_length(size))

    assert MIN_CHUNK_LENGTH <= length <= MAX_CHUNK_LENGTH
    assert length.bit_count() == 1
    assert length % piece_length(size) == 0
    assert length == MAX_CHUNK_LENGTH or length * PREFERRED_CHUNKS >= size
    assert length == MIN_CHUNK_LENGTH or length // 2 * PREFERRED_CHUNKS < size


@given(st.integers(0, 5000), st.integers(1, 4 * MIB), st.integers(1, 4 * MIB))
def test_chunks_are_whole_pieces_and_cover_the_layer_once(whole: int, piece: int, last: int) -> None:
    size = whole * piece + min(last, piece)
    chunks = Chunks.of(size, piece)
    spans = [chunks.span(chunk) for chunk in range(chunks.count)]
    pieces = [index for chunk in range(chunks.count) for index in chunks.pieces(chunk)]

    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert spans[-1][1] == size
    assert pieces == list(range(-(-size // piece)))
    assert all(chunks.chunk_of(chunks.pieces(chunk)[-1]) == chunk for chunk in range(chunks.count))


@pytest.mark.parametrize("chunk", [-1, 2])
def test_a_chunk_outside_the_layer_is_an_error(chunk: int) -> None:
    chunks = Chunks.of(512 * KIB, 64 * KIB)
    with pytest.raises(ValueError, match="chunk"):
        chunks.span(chunk)


@pytest.mark.parametrize(("size", "piece"), [(0, 64), (-1, 64), (64, 0)])
def test_an_empty_layer_has_no_chunks(size: int, piece: int) -> None:
    with pytest.raises(ValueError, match="no chunks"):
        chunk_length(size, piece)


def test_the_first_chunk_is_the_highest_bit_of_the_first_byte() -> None:
    assert Bitmap.of(10, [0, 9]).data == b"\x80\x40"


@given(st.data())
def test_a_bitmap_is_the_same_after_encoding_and_decoding(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 300))
    chunks = data.draw(st.sets(st.integers(0, length - 1)))
    decoded = Bitmap.from_base64(length, Bitmap.of(length, chunks).to_base64())

    assert list(decoded) == sorted(chunks)
    assert all((chunk in decoded) == (chunk in chunks) for chunk in range(-1, length + 1))


def test_a_full_bitmap_has_every_chunk() -> None:
    assert list(Bitmap.full(11)) == list(range(11))


@pytest.mark.parametrize("text", ["", "gA==", "gEAA", "gGA=", "gEA", "gE!=", "é"])
def test_a_bitmap_of_another_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="bitmap"):
        Bitmap.from_base64(10, text)
