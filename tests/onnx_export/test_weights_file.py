import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from glmquant.onnx_export import weights_file as module
from glmquant.onnx_export.weights_file import WeightsFile


def test_tensors_lie_where_their_handles_say(tmp_path) -> None:
    path = tmp_path / "model.onnx.data"
    with WeightsFile(path) as file:
        first = file.add("a", torch.tensor([1, 2, 3], dtype=torch.uint8))
        second = file.add("b", torch.tensor([[1.5, 2.5]]).half())
    data = path.read_bytes()
    assert (first.offset, first.length, second.offset, second.length) == (0, 3, 64, 4)
    assert second.location == "model.onnx.data"
    assert np.frombuffer(data[64:68], np.float16).tolist() == [1.5, 2.5]
    assert file.size == len(data) == 68
    assert file.sha256 == hashlib.sha256(data).hexdigest()


def test_a_failed_write_is_raised_at_the_latest_at_the_end() -> None:
    with pytest.raises(OSError, match="No space left"), WeightsFile(Path("/dev/full")) as file:
        file.add("a", torch.zeros(1 << 20))


def test_what_waits_to_be_written_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES", 100)
    written, waiting = [0], [0]
    append = WeightsFile._append

    def slowly(file: WeightsFile, data: bytes | memoryview) -> None:
        time.sleep(0.002)
        append(file, data)
        written[0] += len(data)

    def pieces() -> Iterator[torch.Tensor]:
        for n in range(40):
            waiting.append(32 * n - written[0])
            yield torch.full((32,), n, dtype=torch.uint8)

    monkeypatch.setattr(WeightsFile, "_append", slowly)
    with WeightsFile(tmp_path / "w") as file:
        file.add_pieces("a", torch.uint8, (40, 32), pieces())
    assert 32 < max(waiting) <= 100 + 32
    assert (tmp_path / "w").read_bytes() == bytes(n for n in range(40) for _ in range(32))
