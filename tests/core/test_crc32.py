"""CRC-32 of stretches, put together, against zlib's of the whole."""

import random
import zlib
from itertools import pairwise

import pytest

from glmquant.core.crc32 import combined, crc32


@pytest.mark.parametrize("cuts", [[], [0], [5000], [1], [17, 17, 4096], [1, 2, 3, 4999]])
def test_it_is_that_of_the_whole(cuts: list[int]) -> None:
    content = random.Random(1).randbytes(5000)
    ends = [0, *cuts, len(content)]
    assert crc32(content) == zlib.crc32(content)
    parts = [content[start:stop] for start, stop in pairwise(ends)]
    assert combined((zlib.crc32(part), len(part)) for part in parts) == zlib.crc32(content)


def test_nothing_has_that_of_nothing() -> None:
    assert combined([]) == zlib.crc32(b"") == 0
