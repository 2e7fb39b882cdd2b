"""A function's last value."""

import threading
from concurrent.futures import ThreadPoolExecutor

from glmquant.core.memo import last_value


def test_the_last_value_is_computed_once() -> None:
    asked: list[int] = []
    value = last_value(lambda number: asked.append(number) or -number)  # type: ignore[func-returns-value]
    assert [value(n) for n in (1, 1, 2, 2, 1)] == [-1, -1, -2, -2, -1]
    assert asked == [1, 2, 1]


def test_threads_that_ask_at_once_get_what_they_asked_for() -> None:
    meet = threading.Barrier(2, timeout=0.05)

    def slow(number: int) -> int:
        try:
            meet.wait()
        except threading.BrokenBarrierError:
            meet.reset()  # the other one had to wait, as it should
        return number

    value = last_value(slow)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            assert list(pool.map(value, (1, 2))) == [1, 2]
