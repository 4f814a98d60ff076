"""Piece lengths. They are pinned: another length changes the rbtorrent id."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.torrents.piece_length import piece_length

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

GOLDEN = [
    (0, 64 * KIB),
    (1, 64 * KIB),
    (64 * MIB - 1, 64 * KIB),
    (64 * MIB, 64 * KIB),
    (64 * MIB + 1, 128 * KIB),
    (128 * MIB, 128 * KIB),
    (128 * MIB + 1, 256 * KIB),
    (256 * MIB, 256 * KIB),
    (256 * MIB + 1, 512 * KIB),
    (512 * MIB, 512 * KIB),
    (512 * MIB + 1, MIB),
    (GIB, MIB),
    (GIB + 1, 2 * MIB),
    (2 * GIB, 2 * MIB),
    (2 * GIB + 1, 4 * MIB),
    (4 * GIB, 4 * MIB),
    (4 * GIB + 1, 8 * MIB),
    (8 * GIB, 8 * MIB),
    (8 * GIB + 1, 16 * MIB),
    (16 * GIB, 16 * MIB),
    (16 * GIB + 1, 16 * MIB),
    (500 * GIB, 16 * MIB),
    # The first and the last layer of the specification's example.
    (40000566, 64 * KIB),
    (87394128, 128 * KIB),
]


@pytest.mark.parametrize(("size", "length"), GOLDEN)
def test_the_piece_length_of_a_size_is_pinned(size: int, length: int) -> None:
    assert piece_length(size) == length


@given(st.integers(min_value=0, max_value=1024 * GIB))
def test_it_is_the_smallest_power_of_two_that_gives_at_most_1024_pieces(size: int) -> None:
    fitting = [64 * KIB << steps for steps in range(9) if -(-size // (64 * KIB << steps)) <= 1024]
    assert piece_length(size) == min(fitting, default=16 * MIB)


def test_a_negative_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        piece_length(-1)
