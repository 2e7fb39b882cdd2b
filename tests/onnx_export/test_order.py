"""Linears whose columns are in another order than their inputs (GPTQ's ``desc_act``)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from glmquant.core.spec import QuantSpec
from glmquant.glm.block import Block
from glmquant.glm.linear import Linear
from glmquant.methods.rtn import Rtn
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.model import OnnxModel
from tests.support.models import MemorySource, random_source, torch_logits


def reordered(layer: Linear, seed: int) -> Linear:
    weight_NK = layer.dense()
    order_K = torch.randperm(weight_NK.shape[1], generator=torch.Generator().manual_seed(seed))
    return Linear(Rtn().quantize(weight_NK[:, order_K], QuantSpec(4, 32), None), layer.bias_N, order_K)


def reordered_source() -> MemorySource:
    source = random_source()

    def block(number: int, block: Block) -> Block:
        linears = enumerate(block.linears().items())
        return block.with_linears({name: reordered(linear, number + 10 * i) for i, (name, linear) in linears})

    blocks = tuple(block(number, each) for number, each in enumerate(source.blocks))
    return replace(source, blocks=blocks, output_head=reordered(source.output_head, 99))


@pytest.mark.parametrize("profile", ["ort", "standard"])
def test_inputs_are_put_in_the_columns_order(tmp_path: Path, profile: str) -> None:
    source = reordered_source()
    ids = torch.arange(2 * 12).reshape(2, 12)
    options = ExportOptions.model_validate({"profile": profile, "accuracy_level": 1})
    export_bundle(source, options, tmp_path)
    logits = OnnxModel.open(tmp_path, num_threads=1).forward(ids.numpy(), np.ones((2, 12), np.int64))
    np.testing.assert_allclose(logits, torch_logits(source, ids).numpy(), atol=2e-5)
