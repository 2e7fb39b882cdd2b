"""What the process and the machine have, against what the system itself says."""

import subprocess
import sys

import pytest

from glmquant.core.machine import peak_memory, physical_memory


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


def test_the_machine_has_more_than_this_process() -> None:
    assert peak_memory() < physical_memory() < 1 << 50
