"""Checkpoints that are quantized already: the publisher's own rows are a source like float weights, GPTQ is not."""

from pathlib import Path

import pytest
import torch

from glmquant import api
from glmquant.cli.rendering import summary_text
from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import QuantSpec
from glmquant.errors import QuantizationError
from glmquant.methods.rtn import Rtn
from glmquant.recipe.load import load_recipe
from glmquant.store.checkpoint import open_checkpoint
from tests.store.test_quantized_checkpoints import published, row_quantized, write
from tests.support.paths import CHATGLM2

RULES = [
    {"match": "layers.1.*", "keep": True},
    {"match": "lm_head", "keep": True},
    {"match": "*", "spec": {"bits": 8, "group_size": 32}},
]


@pytest.mark.parametrize("bits", [4, 8])
def test_published_rows_are_quantized_like_the_weights_they_stand_for(tmp_path: Path, bits: int) -> None:
    source = open_checkpoint(write(tmp_path / "source", row_quantized(published(), bits), quantization_bit=bits))
    described = api.inspect(source.path)
    assert (described.quantization, described.readers) == ("rows", ())
    assert "quantized by its publisher" in summary_text(described)
    written = api.quantize(source.path, load_recipe(None, {"rules": RULES}), out=tmp_path / "out")
    kept = written.block(1).linears()["self_attn.o_proj"].weight
    assert isinstance(kept, torch.Tensor)
    assert torch.equal(kept, source.block(1).linears()["self_attn.o_proj"].dense(torch.float16))
    rounded = written.block(0).linears()["self_attn.o_proj"].weight
    assert isinstance(rounded, QuantTensor)
    expected = Rtn().quantize(
        source.block(0).linears()["self_attn.o_proj"].dense(torch.float16), QuantSpec(8, 32), None
    )
    assert torch.equal(rounded.codes_NK, expected.codes_NK)
    assert torch.equal(rounded.scales_NG, expected.scales_NG)


def test_what_is_in_gptq_format_is_not_quantized_again(tmp_path: Path) -> None:
    recipe = load_recipe(None, {"rules": RULES})
    api.quantize(CHATGLM2, recipe, out=tmp_path / "once")
    with pytest.raises(QuantizationError, match="quantized already, in GPTQ format"):
        api.quantize(tmp_path / "once", recipe, out=tmp_path / "twice")
    assert not (tmp_path / "twice").exists()
