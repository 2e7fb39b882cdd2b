"""A part of one's own, as CONTRIBUTING tells: one class, one line in a table, and every stage knows it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import relu

import glmquant as gq
from glmquant.core.qtensor import QuantTensor
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.source import Query
from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.parts import MLP_PARTS, Context, Part, PartKind
from glmquant.glm.parts.base import group_in, modules_in
from glmquant.glm.rotary import positions_and_mask, rms_norm, rotary
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.runtime.model import OnnxModel
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from tests.glm.test_families import VOCABULARY
from tests.support import glm4
from tests.support.checkpoints import float_tensors, tiny_config, write_checkpoint


class ToyMlp(PartKind):
    """``down(relu(up x))``, without a gate."""

    scope = "mlp"
    input_norm = "post_attention_layernorm"
    output_norm = "post_mlp_layernorm"

    def groups(self, config: GlmConfig, layer: int) -> tuple[LinearGroup, ...]:
        hidden, inner = config.hidden_size, config.intermediate_size
        up, down = (modules_in(self.scope, layer, (name,)) for name in ("up_proj", "down_proj"))
        return (
            LinearGroup(group_in(self.scope, layer, "up_proj"), up, (inner,), hidden),
            LinearGroup(group_in(self.scope, layer, "down_proj"), down, (hidden,), inner),
        )

    def between(self, step: int, output: Tensor, x: Tensor, part: Part, context: Context) -> Tensor:
        return relu(output)

    def graph(self, step: int, output: Any, part: Any, operators: Any, context: Any) -> Any:
        return operators.g.node("Relu", [output])


SETTINGS: dict[str, object] = {
    "calibration.num_samples": 8,
    "calibration.seq_len": 32,
    "calibration.data": ["glmquant:calibration.txt"],
    "rules": [
        {"match": "lm_head", "spec": {"bits": 8, "group_size": 32}, "method": {"kind": "rtn"}},
        {
            "match": "layers.*",
            "spec": {"bits": 4, "group_size": 32},
            "alternatives": [{"bits": 8, "group_size": 32}, {"bits": 2, "group_size": 32}],
            "method": {"kind": "gptq", "coordinate_descent": 1},
        },
    ],
    "allocate.average_bits": 6,
    "fit": {"equalize": True, "error_propagation": 0.5},
    "export.accuracy_level": 0,
    "check.text": ["glmquant:held-out-en.txt"],
    "check.num_tokens": 256,
    "check.seq_len": 32,
    "check.tasks": [],
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setitem(MLP_PARTS, "relu", ToyMlp())
    directory = tmp_path / "model"
    config = replace(tiny_config(), vocab_size=VOCABULARY, rotary_dim=16, hidden_act="relu")
    tensors = {name: 0.2 * tensor + (tensor.ndim == 1) for name, tensor in float_tensors(config).items()}
    write_checkpoint(directory, config, tensors)
    scratch = tmp_path / "tokenizer"
    scratch.mkdir()
    load_tokenizer(scratch, glm4.write_tokenizer(scratch)).save(directory)
    return open_checkpoint(directory)


def test_it_computes_what_it_says(model: Checkpoint) -> None:
    config = model.config
    part = model.block(1).floating(torch.float32).mlp
    x_BTD = torch.randn(1, 5, config.hidden_size, generator=torch.Generator().manual_seed(0))
    up, down = (part.linears[name].dense() for name in ("up_proj", "down_proj"))
    normalized = rms_norm(x_BTD, part.gains["post_attention_layernorm"], config.rms_norm_eps)
    expected = x_BTD + relu(normalized @ up.T) @ down.T
    positions, _ = positions_and_mask(torch.ones(1, 5, dtype=torch.int64))
    assert torch.allclose(part.forward(x_BTD, Context(config, rotary(config, positions))), expected, atol=1e-5)


@pytest.mark.parametrize("profile", ["ort", "standard"])
def test_it_is_read_calibrated_quantized_exported_and_checked(model: Checkpoint, profile: str, tmp_path: Path) -> None:
    recipe = gq.load_recipe(None, SETTINGS | {"export.profile": profile})
    summary = gq.inspect(model, recipe, predict=True)
    assert "layers.1.mlp.up_proj" in {group.name for group in summary.groups}

    calibration = gq.calibrate(model, recipe, out=tmp_path / "calibration")
    quantized = gq.quantize(model, recipe, calibration, out=tmp_path / "quantized")
    linears = [linear for layer in (0, 1) for linear in quantized.block(layer).mlp.linears.values()]
    widths = [linear.weight.spec.bits for linear in linears if isinstance(linear.weight, QuantTensor)]
    assert len(widths) == 4, "up_proj and down_proj of both layers"
    assert len(set(widths)) > 1, "bits were allocated by measured sensitivities"

    bundle = gq.export(quantized, recipe, out=tmp_path / "onnx")
    tokens = torch.randint(0, VOCABULARY, (1, 12), generator=torch.Generator().manual_seed(0)).numpy()
    shipped = OnnxModel.open(bundle.path).forward(tokens, tokens * 0 + 1)[0]
    (dequantized,) = BaselineSource(quantized).logits([Query(tokens[0], 12)])
    assert abs(shipped - dequantized).max() <= 1e-3 * abs(dequantized).max()

    report = gq.check(bundle, baseline=model, recipe=recipe)
    assert report.language is not None
    assert report.language.perplexity_ratio.estimate < 1.2


def test_without_the_line_in_the_table_its_checkpoint_is_refused(
    model: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(MLP_PARTS, "relu")
    with pytest.raises(gq.CheckpointError, match=r"hidden_act[\s\S]*silu"):
        open_checkpoint(model.path)
