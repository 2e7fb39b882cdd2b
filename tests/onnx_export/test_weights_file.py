import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

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
