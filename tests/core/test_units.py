import pytest

from glmquant.core.units import size


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(999, "999 bytes"), (1_234_000, "1.23 MB"), (12_487_168_064, "12.5 GB")]
)
def test_sizes(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text
