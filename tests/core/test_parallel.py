import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmquant.core import parallel as strips
from glmquant.core.parallel import lone_workers, over_shares, over_strips
from tests.support.threads import threads


@given(rows=st.integers(0, 300), columns=st.integers(1, 50), elements=st.integers(1, 400))
def test_strips_are_all_rows_in_order(rows: int, columns: int, elements: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "STRIP_ELEMENTS", elements)
        parts = over_strips(lambda part: part, rows, columns)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(rows))
    assert all((part.stop - part.start) * columns <= max(elements, columns) for part in parts)


def test_strips_are_shared_among_threads_that_compute_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP_ELEMENTS", 1)
    before = torch.get_num_threads()
    found = over_strips(lambda part: (threading.current_thread().name, torch.get_num_threads()), 64, 1)
    assert {count for _, count in found} == {1}
    assert threading.current_thread().name not in {name for name, _ in found}
    assert torch.get_num_threads() == before
    with_torch = threading.Thread(target=lambda: found.append(("new", torch.get_num_threads())))
    with_torch.start()
    with_torch.join()
    assert found[-1] == ("new", before)


def test_strips_within_a_strip_stay_on_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP_ELEMENTS", 1)

    def names(_: slice) -> set[str]:
        inner = over_strips(lambda part: threading.current_thread().name, 8, 1)
        return {threading.current_thread().name, *inner}

    assert all(len(each) == 1 for each in over_strips(names, 8, 1))


def test_strips_know_the_inference_mode_of_their_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP_ELEMENTS", 1)
    for mode in (True, False):
        with torch.inference_mode(mode):
            assert set(over_strips(lambda part: torch.is_inference_mode_enabled(), 4, 1)) == {mode}


def test_strips_know_whether_their_caller_wants_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP_ELEMENTS", 1)
    for wanted in (True, False):
        with torch.set_grad_enabled(wanted):
            assert set(over_strips(lambda part: torch.is_grad_enabled(), 4, 1)) == {wanted}


def test_a_forked_process_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP_ELEMENTS", 1)
    over_strips(lambda part: None, 4, 1)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(over_strips(lambda part: part.start, 4, 1)[-1])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_an_error_in_a_strip_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP_ELEMENTS", 1)

    def fail(part: slice) -> None:
        if part.start == 5:
            raise ValueError("strip five")

    with pytest.raises(ValueError, match="strip five"):
        over_strips(fail, 8, 1)


def test_a_lone_worker_leaves_the_threads_of_others_alone() -> None:
    before = torch.get_num_threads()
    with lone_workers("beside") as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == before
        names = pool.submit(over_strips, lambda part: threading.current_thread().name, 64, 1).result()
    assert len(names) == 1  # a matrix this small is one strip
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == before


def test_shares_are_one_a_thread_and_not_too_small() -> None:
    over_strips(lambda part: None, 4, 1 << 20)  # by as many threads as there are

    def shares(rows: int, count: int) -> list[slice]:
        found: list[slice] = []
        with threads(count):
            over_shares(found.append, rows)
        return sorted(found, key=lambda part: part.start)

    assert shares(3000, 1) == [slice(0, 3000)]
    assert shares(3000, 2) == [slice(0, 1536), slice(1536, 3000)]
    assert shares(600, 2) == [slice(0, 512), slice(512, 600)]
    assert shares(512, 8) == [slice(0, 512)]
    assert shares(0, 2) == []
