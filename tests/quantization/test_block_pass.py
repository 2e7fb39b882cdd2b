"""The staged pass gives what the plain block gives, and GPTQ keeps its promise on the model that ships."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from glmquant import assets
from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import QuantSpec
from glmquant.core.stats import LayerStats
from glmquant.errors import QuantizationError
from glmquant.glm.groups import block_groups
from glmquant.methods import Gptq, Rtn
from glmquant.quantization.block_pass import quantize_block
from glmquant.recipe.plan import GroupPlan
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.streaming.activations import Activations, embed
from tests.support.blocks import block_forward
from tests.support.paths import CHATGLM2
from tests.support.reference import output_error

INT4 = QuantSpec(4, 128)


def calibrated(checkpoint: Checkpoint, samples: int, length: int) -> Activations:
    tokens = torch.randint(0, 1000, (samples, length), generator=torch.Generator().manual_seed(0))
    return embed(tokens, checkpoint.embedding(), checkpoint.config)


def hidden_states(activations: Activations) -> Tensor:
    return activations.hidden.read(slice(0, activations.hidden.shape[0]))


def names_of(checkpoint: Checkpoint, layer: int) -> list[str]:
    return [group.name for group in block_groups(checkpoint.config, layer)]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_a_kept_block_passes_samples_on_as_the_plain_block_does() -> None:
    checkpoint = open_checkpoint(CHATGLM2)
    activations = calibrated(checkpoint, 3, 40)
    block, names = checkpoint.block(0), names_of(checkpoint, 0)
    expected = block_forward(hidden_states(activations).clone(), block, checkpoint.config, activations.rope)
    kept, outcomes = quantize_block(block, names, dict.fromkeys(names, GroupPlan()), checkpoint.config, activations)
    assert kept == block or kept.linears()["self_attn.qkv_proj"] is block.linears()["self_attn.qkv_proj"]
    assert [outcome.weight_error for outcome in outcomes] == [None] * 4
    torch.testing.assert_close(hidden_states(activations), expected, atol=1e-5, rtol=1e-5)


def test_a_quantized_block_passes_on_what_its_own_weights_compute() -> None:
    checkpoint = open_checkpoint(CHATGLM2)
    activations = calibrated(checkpoint, 3, 40)
    before = hidden_states(activations).clone()
    names = names_of(checkpoint, 0)
    plans = dict.fromkeys(names, GroupPlan(INT4, Gptq()))
    block, _ = quantize_block(checkpoint.block(0), names, plans, checkpoint.config, activations)
    expected = block_forward(before, block, checkpoint.config, activations.rope)
    torch.testing.assert_close(hidden_states(activations), expected, atol=1e-5, rtol=1e-5)


def test_a_quantized_checkpoint_is_not_quantized_again() -> None:
    checkpoint = open_checkpoint(CHATGLM2)
    names = names_of(checkpoint, 0)
    plans = dict.fromkeys(names, GroupPlan(INT4, Rtn()))
    block, _ = quantize_block(checkpoint.block(0), names, plans, checkpoint.config, None)
    with pytest.raises(QuantizationError, match="quantized already"):
        quantize_block(block, names, plans, checkpoint.config, None)


@dataclass(frozen=True)
class Compared:
    """GPTQ that also rounds, and notes both output errors on the same inputs."""

    kind: ClassVar[str] = "compared"
    needs_hessian: ClassVar[bool] = True
    errors: list[tuple[float, float]] = field(default_factory=list)

    def quantize(self, weight_NK: Tensor, spec: QuantSpec, stats: LayerStats | None) -> QuantTensor:
        assert stats is not None
        gptq, rtn = Gptq().quantize(weight_NK, spec, stats), Rtn().quantize(weight_NK, spec, None)
        hessian_KK = stats.hessian_KK
        self.errors.append(
            (
                output_error(weight_NK, gptq.dequantize(), hessian_KK),
                output_error(weight_NK, rtn.dequantize(), hessian_KK),
            )
        )
        return gptq


@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_beats_rounding_on_every_linear_of_the_demo_model(bits: int) -> None:
    checkpoint = open_checkpoint(assets.DEMO_MODEL)
    activations = calibrated(checkpoint, 8, 128)
    method = Compared()
    for layer in range(checkpoint.config.num_hidden_layers):
        names = names_of(checkpoint, layer)
        plans = dict.fromkeys(names, GroupPlan(QuantSpec(bits, 128), method))
        quantize_block(checkpoint.block(layer), names, plans, checkpoint.config, activations)
    assert len(method.errors) == 4 * checkpoint.config.num_hidden_layers
    assert [(gptq, rtn) for gptq, rtn in method.errors if gptq >= rtn] == []
