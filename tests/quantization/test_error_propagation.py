"""Each linear makes up for what those before it lost."""

from pathlib import Path

import pytest
import torch

from glmquant import api, assets
from glmquant.core.spec import QuantSpec
from glmquant.core.stats import ErrorAccumulator, HessianAccumulator
from glmquant.glm.linear import Linear
from glmquant.methods import Gptq
from glmquant.quantization.block_pass import quantize_block
from glmquant.quantization.error_propagation import DAMPING, LinearFit, Seen, corrected
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import GroupPlan
from glmquant.store.checkpoint import open_checkpoint
from glmquant.streaming.activations import LEAF_BATCHES, Activations, Batch, embed, unfilled
from tests.quantization.test_block_pass import hidden_states, plan_of, rope_of
from tests.quantization.test_quantize import StopAt, samples_for
from tests.support.blocks import block_forward
from tests.support.checkpoints import tiny_config
from tests.support.paths import CHATGLM2, contents

FIT = {"fit": {"equalize": True, "error_propagation": 1.0, "token_weights": "relative"}}


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, 40, generator=generator)
    return torch.randn(6, 40, generator=generator), x, x + 0.3 * torch.randn(200, 40, generator=generator)


def ridge_solution(
    weight: torch.Tensor, x: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor, offset: torch.Tensor
) -> torch.Tensor:
    """The least squares correction, written as a stacked system in float64."""
    x, wanted = x.double(), wanted.double()
    lacking = (wanted - x) @ weight.double().T + offset
    roots = weights.double().sqrt().unsqueeze(1)
    ridge = DAMPING * float((roots * x).square().sum(0).mean())
    system = torch.cat([roots * x, ridge**0.5 * torch.eye(x.shape[1], dtype=torch.float64)])
    target = torch.cat([roots * lacking, torch.zeros(x.shape[1], len(weight), dtype=torch.float64)])
    return weight.double() + torch.linalg.lstsq(system, target).solution.T


def in_batches(count: int) -> Activations:
    """200 samples of one token."""
    parts = [part.tolist() for part in torch.arange(200).chunk(count)]
    return unfilled([Batch(tuple(part), 1, part[0]) for part in parts], tiny_config())


def test_known_bounds_spare_the_first_pass_over_the_inputs() -> None:
    weight, x, wanted = inputs()
    asked = []

    def seen(batch: Batch) -> Seen:
        asked.append(batch)
        rows = list(batch.members)
        return Seen(x[rows].unsqueeze(1), (wanted - x)[rows].unsqueeze(1))

    found = []
    for largest in (None, torch.full((40,), 64.0)):
        fit = LinearFit(Linear(weight), 1.0, by_inputs=True)
        fit.gather(in_batches(3), seen, largest)
        found.append(fit.result(weight))
    assert len(asked) == 3 * 3
    (measured, stats), (known, known_stats) = found
    assert torch.allclose(measured, known, rtol=1e-5, atol=1e-6)
    assert torch.allclose(stats.hessian_KK, known_stats.hessian_KK, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("by_inputs", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("leaves", [1, 3])
def test_weights_move_to_the_least_squares_solution(by_inputs: bool, weighted: bool, leaves: int) -> None:
    weight, x, wanted = inputs()
    weights = torch.linspace(0.1, 2, 200) if weighted else torch.ones(200)
    offset = torch.zeros(200, 6) if by_inputs else wanted[:, :6] * 0.1

    def seen(batch: Batch) -> Seen:
        part = list(batch.members)
        lost, counts = wanted[part] - x[part], weights[part] if weighted else None
        return Seen(x[part], lost, None if by_inputs else offset[part], counts)

    fit = LinearFit(Linear(weight), 1.0, by_inputs=by_inputs)
    fit.gather(in_batches(LEAF_BATCHES * leaves), seen)
    moved, stats = fit.result(weight)
    assert stats.num_tokens == 200
    expected = ridge_solution(weight, x, wanted, weights, offset)
    assert (moved - expected).norm() < 0.02 * (expected - weight).norm()


def test_half_of_it_moves_weights_half_way() -> None:
    weight, x, wanted = inputs()
    hessian, errors_seen = HessianAccumulator(40), ErrorAccumulator(6, 40)
    hessian.add(x)
    errors_seen.add((wanted - x) @ weight.T, x)
    stats, error = hessian.result(), errors_seen.result()
    whole, half = (corrected(weight, stats, error, amount) for amount in (1.0, 0.5))
    torch.testing.assert_close(half, (whole + weight) / 2)


@torch.inference_mode()
def test_blocks_end_nearer_to_the_float_model() -> None:
    checkpoint = open_checkpoint(assets.DEMO_MODEL)
    config = checkpoint.config
    tokens = torch.randint(0, 1000, (8, 128), generator=torch.Generator().manual_seed(0))
    errors = {}
    for strength in (0.0, 1.0):
        plan = plan_of(checkpoint, GroupPlan(QuantSpec(4, 128), Gptq()), error_propagation=strength)
        activations, reference = (embed(tokens, checkpoint.embedding(), config) for _ in range(2))
        for layer in range(config.num_hidden_layers):
            quantize_block(checkpoint.block(layer), layer, plan, activations, reference)
        expected = hidden_states(embed(tokens, checkpoint.embedding(), config))
        for layer in range(config.num_hidden_layers):
            expected = block_forward(expected, checkpoint.block(layer).floating(), config, rope_of(reference))
        torch.testing.assert_close(hidden_states(reference), expected, atol=1e-3, rtol=1e-3)
        errors[strength] = float((hidden_states(activations) - expected).square().mean())
    assert errors[1.0] < 0.9 * errors[0.0]


@pytest.mark.parametrize("layer", [1, 2])
def test_an_interrupted_run_goes_on_with_both_streams(tmp_path: Path, layer: int) -> None:
    rules = [{"match": "layers.1.*", "keep": True}, {"match": "*", "spec": {"bits": 4}, "method": {"kind": "gptq"}}]
    recipe = load_recipe(None, {"rules": rules, **FIT})
    samples = samples_for(CHATGLM2)
    whole = api.quantize(CHATGLM2, recipe, samples, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        api.quantize(CHATGLM2, recipe, samples, out=tmp_path / "broken", progress=StopAt(layer))
    api.quantize(CHATGLM2, recipe, samples, out=tmp_path / "broken")
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    kept, published = (
        whole.block(1).linears()["self_attn.o_proj"].weight,
        open_checkpoint(CHATGLM2).block(1).linears()["self_attn.o_proj"].weight,
    )
    assert isinstance(kept, torch.Tensor)
    assert isinstance(published, torch.Tensor)
    assert kept.dtype == published.dtype
