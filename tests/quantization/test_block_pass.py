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
from glmquant.glm.groups import linear_groups
from glmquant.glm.rotary import Rotary
from glmquant.methods import Gptq, Rtn
from glmquant.quantization.block_pass import quantize_block
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import GroupPlan, Plan
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
    return torch.cat([activations.hidden.read(batch) for batch in activations.batches])


def rope_of(activations: Activations) -> Rotary:
    (rope,) = activations.ropes.values()
    return rope


def plan_of(checkpoint: Checkpoint, plan: GroupPlan, **fit: object) -> Plan:
    """The same for every group."""
    recipe = load_recipe(None, {f"fit.{key}": value for key, value in fit.items()})
    groups = linear_groups(checkpoint.config)
    return Plan(recipe, checkpoint.config, groups, {group.name: plan for group in groups})


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_a_kept_block_passes_samples_on_as_the_plain_block_does() -> None:
    checkpoint = open_checkpoint(CHATGLM2)
    activations = calibrated(checkpoint, 3, 40)
    block = checkpoint.block(0)
    expected = block_forward(hidden_states(activations).clone(), block, checkpoint.config, rope_of(activations))
    kept, outcomes = quantize_block(block, 0, plan_of(checkpoint, GroupPlan()), activations)
    for name, linear in block.linears().items():
        assert kept.linears()[name] is linear
    assert [outcome.weight_error for outcome in outcomes] == [None] * 4
    torch.testing.assert_close(hidden_states(activations), expected, atol=1e-5, rtol=1e-5)


def test_a_quantized_block_passes_on_what_its_own_weights_compute() -> None:
    checkpoint = open_checkpoint(CHATGLM2)
    activations = calibrated(checkpoint, 3, 40)
    before = hidden_states(activations).clone()
    block, _ = quantize_block(checkpoint.block(0), 0, plan_of(checkpoint, GroupPlan(INT4, Gptq())), activations)
    expected = block_forward(before, block, checkpoint.config, rope_of(activations))
    torch.testing.assert_close(hidden_states(activations), expected, atol=1e-5, rtol=1e-5)


def test_a_quantized_checkpoint_is_not_quantized_again() -> None:
    checkpoint = open_checkpoint(CHATGLM2)
    plan = plan_of(checkpoint, GroupPlan(INT4, Rtn()))
    block, _ = quantize_block(checkpoint.block(0), 0, plan, None)
    with pytest.raises(QuantizationError, match="quantized already"):
        quantize_block(block, 0, plan, None)


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
    plan = plan_of(checkpoint, GroupPlan(QuantSpec(bits, 128), method))
    for layer in range(checkpoint.config.num_hidden_layers):
        quantize_block(checkpoint.block(layer), layer, plan, activations)
    assert len(method.errors) == 4 * checkpoint.config.num_hidden_layers
    assert [(gptq, rtn) for gptq, rtn in method.errors if gptq >= rtn] == []
