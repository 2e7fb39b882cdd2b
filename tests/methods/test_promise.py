"""A method of one's own is held to what it says of itself, on a small matrix and whenever it quantizes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import QuantSpec
from glmquant.core.stats import LayerStats
from glmquant.errors import QuantizationError
from glmquant.glm.linear import Linear
from glmquant.methods import Rtn, register_method
from glmquant.methods.grid import encode
from glmquant.methods.promise import quantized, require_kept
from glmquant.quantization.lazy_matrix import LazyMatrix, Squares
from glmquant.quantization.linear_pass import quantize_linear
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import GroupPlan, make_plan
from tests.hints.follow import follows, refused
from tests.support.models import TINY

SPEC = QuantSpec(4, 32)
WEIGHT = torch.randn(600, 64, generator=torch.Generator().manual_seed(0))
Rounds = Callable[[Tensor, QuantSpec, LayerStats | None], Any]


def rounded(weight_NK: Tensor, spec: QuantSpec) -> QuantTensor:
    return Rtn().quantize(weight_NK, spec, None)


def own(rounds: Rounds, **says: bool) -> Any:
    @dataclass(frozen=True)
    class Own:
        kind: ClassVar[str] = "own"
        needs_hessian: ClassVar[bool] = False

        def quantize(self, weight_NK: Tensor, spec: QuantSpec, stats: LayerStats | None) -> Any:
            return rounds(weight_NK, spec, stats)

    for name, value in says.items():
        setattr(Own, name, value)
    return Own()


def of_one_scale(weight_NK: Tensor, spec: QuantSpec, stats: LayerStats | None) -> QuantTensor:
    """A scale for the whole matrix: no row by itself."""
    scales_NG = torch.full((len(weight_NK), 2), float(weight_NK.abs().max() / 7)).half().float()
    return encode(weight_NK.float(), scales_NG, torch.full_like(scales_NG, 8), spec)


BROKEN: dict[str, tuple[Rounds, str]] = {
    "a tensor": (lambda w, s, _: w, "gives Tensor, no QuantTensor"),
    "another spec": (lambda w, s, _: rounded(w, QuantSpec(8, 32)), "gives a tensor of QuantSpec(bits=8"),
    "fewer rows": (lambda w, s, _: rounded(w[1:], s), "of shape (7, 64) for a weight of shape (8, 64)"),
    "codes of more bits": (
        lambda w, s, _: replace(rounded(w, s), codes_NK=torch.full(w.shape, 16, dtype=torch.uint8)),
        "codes or zero points above 15",
    ),
    "zero points": (
        lambda w, s, _: replace(rounded(w, s), zeros_NG=torch.zeros(len(w), 2, dtype=torch.uint8)),
        "zero points other than 8 for a symmetric spec",
    ),
    "fine scales": (
        lambda w, s, _: replace(rounded(w, s), scales_NG=rounded(w, s).scales_NG * 1.0001),
        "scales that float16 cannot hold",
    ),
    "its own error": (lambda w, s, stats: stats.hessian_KK, "fails: AttributeError: 'NoneType' object"),  # type: ignore[union-attr]
}


@pytest.mark.parametrize(("rounds", "told"), BROKEN.values(), ids=BROKEN)
def test_what_a_method_gives_is_looked_at(rounds: Rounds, told: str) -> None:
    with pytest.raises(QuantizationError) as caught:
        require_kept(own(rounds), SPEC)
    assert told in caught.value.what
    assert "a frozen dataclass" in str(caught.value)
    with pytest.raises(QuantizationError):
        quantized(own(rounds), WEIGHT, SPEC, None)


def test_a_methods_own_refusal_stays_its_own() -> None:
    def refuse(weight_NK: Tensor, spec: QuantSpec, stats: LayerStats | None) -> QuantTensor:
        raise QuantizationError("only 8 bits")

    with pytest.raises(QuantizationError, match=r"^only 8 bits$"):
        require_kept(own(refuse), SPEC)


@pytest.mark.usefixtures("own_methods")
def test_a_plan_tries_the_method_before_a_model_is_read() -> None:
    method = own(BROKEN["fewer rows"][0])
    register_method(type(method))
    rule = {"match": "*.down_proj", "spec": {"bits": 4, "group_size": 32}, "method": method}
    with pytest.raises(QuantizationError, match="gives a tensor of shape"):
        make_plan(load_recipe(None, {"rules": [rule]}), TINY)


@follows("draw from torch.Generator().manual_seed(seed), with the seed an option")
def test_a_method_that_draws_seeds_what_it_draws() -> None:
    def drawn(generator: torch.Generator | None, weight_NK: Tensor) -> Tensor:
        return weight_NK + torch.rand(weight_NK.shape, generator=generator)

    refused(lambda: require_kept(own(lambda w, s, _: rounded(drawn(None, w), s), row_by_row=False), SPEC))
    seeded = own(lambda w, s, _: rounded(drawn(torch.Generator().manual_seed(0), w), s), row_by_row=False)
    require_kept(seeded, SPEC)


@follows("declare row_by_row: ClassVar[bool] = False in its class")
def test_a_method_whose_rows_depend_on_each_other_gets_all_of_them() -> None:
    refused(lambda: require_kept(own(of_one_scale), SPEC))
    method = own(of_one_scale, row_by_row=False)
    require_kept(method, SPEC)
    expected, squares = of_one_scale(WEIGHT, SPEC, None), Squares()
    matrix = LazyMatrix(WEIGHT, SPEC, method, squares)
    for start in (300, 0):
        assert torch.equal(matrix.rows(start, start + 300).codes_NK, expected.codes_NK[start : start + 300])
    assert list(squares) == [0]
    linear, outcome = quantize_linear("layers.0.mlp.down_proj", Linear(WEIGHT), GroupPlan(SPEC, method), None)
    assert isinstance(linear.weight, QuantTensor)
    assert torch.equal(linear.weight.codes_NK, expected.codes_NK)
    assert outcome.weight_error == pytest.approx(
        float((expected.dequantize() - WEIGHT).square().sum() / WEIGHT.square().sum()), rel=1e-5
    )


@pytest.mark.parametrize("needs_hessian", [True, False])
@pytest.mark.parametrize("spec", [SPEC, QuantSpec(2, -1, False), QuantSpec(8, 4096)], ids=str)
def test_a_sound_method_passes(spec: QuantSpec, needs_hessian: bool) -> None:
    require_kept(own(lambda w, s, _: rounded(w, s), needs_hessian=needs_hessian, row_by_row=True), spec)
