from pathlib import Path

import gguf
import pytest
import torch
import transformers

from benchmarks.common import llama_twin
from glmquant.store.checkpoint import open_checkpoint
from tests.support.paths import CHATGLM2


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("twin") / "twin"
    llama_twin.write_hugging_face(open_checkpoint(CHATGLM2), out)
    return out


def test_transformers_loads_the_twin_as_llama_with_every_weight_in_place(hugging_face: Path) -> None:
    model, report = transformers.LlamaForCausalLM.from_pretrained(hugging_face, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    expected = open_checkpoint(CHATGLM2).block(1).linears()["mlp.down_proj"].dense()
    torch.testing.assert_close(model.model.layers[1].mlp.down_proj.weight.float(), expected)


def test_both_twins_hold_the_same_matrices(hugging_face: Path, tmp_path: Path) -> None:
    llama_twin.write_gguf(open_checkpoint(CHATGLM2), tmp_path / "twin.gguf")
    model = transformers.LlamaForCausalLM.from_pretrained(hugging_face, dtype=torch.float16).model.layers[0]
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "twin.gguf").tensors}
    for name, module in llama_twin.HUGGING_FACE_NAMES.items():
        found = torch.from_numpy(tensors[f"blk.0.{name}.weight"].copy()).half()
        assert torch.equal(found, model.get_submodule(module).weight.half()), name
