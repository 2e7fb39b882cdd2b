"""Memory that one matrix lets go of is the next one's."""

import sys

import psutil
import pytest
import torch

from glmquant.core import pages
from glmquant.core.pages import LARGEST_BYTES, SMALLEST_BYTES, trim, unfilled


@pytest.fixture(autouse=True)
def _pool_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_pool", pages._Pool())


def test_shape_and_dtype_are_those_asked_for() -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.uint8):
        assert unfilled((1024, 1024), dtype).shape == (1024, 1024)
        assert unfilled((1024, 1024), dtype).dtype == dtype
    assert unfilled((0, 4), torch.float32).shape == (0, 4)


def test_what_is_let_go_of_is_used_again_by_as_many_bytes() -> None:
    matrix = unfilled((1024, 1024), torch.bfloat16)
    place = matrix.data_ptr()
    other = unfilled((1024, 1024), torch.bfloat16)
    assert other.data_ptr() != place
    del matrix
    assert unfilled((1024, 1025), torch.bfloat16).data_ptr() != place
    assert unfilled((512, 1024), torch.float32).data_ptr() == place


def test_a_part_of_a_matrix_keeps_all_of_it() -> None:
    matrix = unfilled((1024, 1024), torch.bfloat16)
    place, row = matrix.data_ptr(), matrix[3].fill_(1)
    del matrix
    assert unfilled((1024, 1024), torch.bfloat16).data_ptr() != place
    assert bool((row == 1).all())


def test_no_more_than_so_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "KEPT_BYTES", 2 * SMALLEST_BYTES)
    held = [unfilled((SMALLEST_BYTES,), torch.uint8) for _ in range(4)]
    held.clear()
    assert pages._pool._bytes == 2 * SMALLEST_BYTES
    assert len(pages._pool._free) == 2


@pytest.mark.parametrize("size", [SMALLEST_BYTES - 1, LARGEST_BYTES + 1])
def test_small_and_very_large_ones_are_not_kept(size: int) -> None:
    matrix = unfilled((size,), torch.uint8)
    del matrix
    assert not pages._pool._free


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries give back by themselves")
def test_what_ended_between_arrays_that_stay_is_given_back() -> None:
    size = 64 << 10
    arrays = [torch.ones(size, dtype=torch.uint8) for _ in range(4000)]
    stay = arrays[::8]
    del arrays
    before = psutil.Process().memory_info().rss
    trim()
    assert psutil.Process().memory_info().rss < before - 2000 * size
    assert all(bool(x.all()) for x in stay)
