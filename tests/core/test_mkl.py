"""MKL's strict mode, where it is MKL that multiplies as it likes."""

import os
import subprocess
import sys

import pytest

from glmquant.core import mkl

PRODUCTS = """
import glmquant, torch
torch.manual_seed(0)
found = set()
for threads in (1, 2, 3, 4):
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2048, 1056, generator=generator), torch.randn(64, 1056, generator=generator)
    whole = x @ weight.T
    cut = torch.cat([x[:1024] @ weight.T, x[1024:] @ weight.T])
    found |= {whole.numpy().tobytes(), cut.numpy().tobytes()}
print(len(found))
"""


def test_importing_glmquant_makes_float32_products_round_as_one_thread() -> None:
    environment = {name: value for name, value in os.environ.items() if name != mkl.MODE}
    done = subprocess.run([sys.executable, "-c", PRODUCTS], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("processor", "before", "after"),
    [
        ("Intel64 Family 6 Model 143 Stepping 8, GenuineIntel", None, "AUTO,STRICT"),
        ("Intel64 Family 6 Model 143 Stepping 8, GenuineIntel", "COMPATIBLE", "COMPATIBLE"),
        ("AMD64 Family 25 Model 17 Stepping 1, AuthenticAMD", None, None),
        ("ARMv8 (64-bit) Family 8 Model 1 Revision 201, Qualcomm", None, None),
    ],
)
def test_only_intels_processors_need_it_and_a_users_choice_stays(
    monkeypatch: pytest.MonkeyPatch, processor: str, before: str | None, after: str | None
) -> None:
    monkeypatch.setenv("PROCESSOR_IDENTIFIER", processor)
    monkeypatch.delenv(mkl.MODE, raising=False)
    if before is not None:
        monkeypatch.setenv(mkl.MODE, before)
    mkl.round_as_one_thread()
    assert os.environ.get(mkl.MODE) == after
