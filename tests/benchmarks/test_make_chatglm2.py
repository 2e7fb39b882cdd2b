import json
from math import prod

import torch

from benchmarks.common import make_chatglm2
from glmquant.store.checkpoint import open_checkpoint

INV_FREQ_BYTES = 64  # the one published tensor that is left out


def test_the_whole_model_has_the_publishers_size() -> None:
    tensors = list(make_chatglm2.shapes(28))
    assert len(tensors) + 1 == 200
    assert sum(2 * prod(shape) for _, shape in tensors) + INV_FREQ_BYTES == 12_487_168_064
    shards = make_chatglm2.into_shards(tensors)
    assert len(shards) == 7
    assert [tensor for shard in shards for tensor in shard] == tensors


def test_what_is_written_opens_as_chatglm2(tmp_path, monkeypatch) -> None:
    small = {"HIDDEN": 128, "FFN": 96, "VOCAB": 64, "HEAD_DIM": 4}
    for name, value in small.items():
        monkeypatch.setattr(make_chatglm2, name, value)
    config = {"hidden_size": 128, "ffn_hidden_size": 96, "padded_vocab_size": 64, "kv_channels": 4}
    monkeypatch.setattr(make_chatglm2, "CONFIG", make_chatglm2.CONFIG | config)
    make_chatglm2.write(tmp_path / "m", 2, None)
    checkpoint = open_checkpoint(tmp_path / "m")
    assert (checkpoint.config.family, checkpoint.config.num_hidden_layers) == ("chatglm2", 2)
    assert checkpoint.block(1).linears()["mlp.gate_up_proj"].dense().shape == (192, 128)
    assert torch.isfinite(checkpoint.embedding()).all()
    index = json.loads((tmp_path / "m" / "pytorch_model.bin.index.json").read_text())
    assert index["metadata"]["total_size"] == checkpoint.tensor_bytes
