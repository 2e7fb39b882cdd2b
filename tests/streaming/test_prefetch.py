"""The next block loads while one is worked on."""

import pytest

from glmquant.streaming.prefetch import blocks_ahead


def test_the_next_block_loads_meanwhile() -> None:
    loaded: list[int] = []

    def load(layer: int) -> int:
        loaded.append(layer)
        return layer

    blocks = blocks_ahead(load, [3, 5, 8])
    assert next(blocks) == (3, 3)
    assert list(blocks) == [(5, 5), (8, 8)]
    assert loaded == [3, 5, 8]


def test_an_error_of_the_reader_comes_through() -> None:
    def load(layer: int) -> int:
        raise ValueError(layer)

    with pytest.raises(ValueError, match="7"):
        next(blocks_ahead(load, [7]))
