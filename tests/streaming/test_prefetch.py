"""The next block loads while one is worked on."""

import threading

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


def test_as_many_as_asked_for_load_meanwhile_and_come_in_turn() -> None:
    started, may_end = [threading.Event() for _ in range(5)], threading.Event()

    def load(layer: int) -> int:
        started[layer].set()
        if layer == 1:
            assert may_end.wait(10)
        return layer * layer

    blocks = blocks_ahead(load, range(5), ahead=2)
    assert next(blocks) == (0, 0)
    assert started[2].wait(10)  # while 1 is not done
    assert not started[3].wait(0.1)
    may_end.set()
    assert list(blocks) == [(1, 1), (2, 4), (3, 9), (4, 16)]
