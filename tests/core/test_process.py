import psutil
import pytest

from glmquant.core.process import peak_bytes, physical_bytes

GROWS_BY = 100_000_000


def test_the_peak_is_in_bytes_and_outlives_what_was_held() -> None:
    before = peak_bytes()
    held = bytearray(before - psutil.Process().memory_info().rss + GROWS_BY)
    held[::4096] = b"x" * len(held[::4096])
    del held
    assert peak_bytes() - before == pytest.approx(GROWS_BY, rel=0.3)


def test_the_machine_has_more_than_this_process_held() -> None:
    assert peak_bytes() < physical_bytes()
