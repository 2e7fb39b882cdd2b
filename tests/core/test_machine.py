"""What the process and the machine have, against what the system itself says."""

import subprocess
import sys
import time

import pytest

from glmquant.core.machine import available_memory, peak_memory, physical_memory, seconds_since_start


def test_memory_held_for_a_moment_stays_in_the_peak() -> None:
    code = (
        "from glmquant.core.machine import peak_memory\n"
        "before = peak_memory()\n"  # on Linux, not less than the parent's
        "held = b'x' * (before + (100 << 20)); during = peak_memory(); del held\n"
        "print(during - before, peak_memory() - before)"
    )
    during, after = map(int, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert after >= during >= 100 << 20


def test_without_a_record_of_the_peak_the_present_size_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil  # which asks for that module itself

    assert psutil.Process().memory_info().rss > 0
    most = peak_memory()
    monkeypatch.setitem(sys.modules, "resource", None)
    assert 20 << 20 < peak_memory() <= most * 1.1


def test_what_is_available_is_part_of_the_machine() -> None:
    assert 64 << 20 < available_memory() < physical_memory() < 1 << 50


def test_the_clock_runs_from_the_start_of_the_process() -> None:
    code = "import time; time.sleep(0.5)\nfrom glmquant.core.machine import seconds_since_start as s; print(s())"
    started = time.monotonic()
    told = float(subprocess.check_output([sys.executable, "-c", code]))
    assert 0.5 <= told <= time.monotonic() - started + 0.02
    assert seconds_since_start() > 0.1
