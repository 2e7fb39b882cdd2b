"""Equalization changes what is quantized: weights that stay float are not rounded anew for nothing."""

from typing import Any

import pytest
import torch

from glmquant.glm.parts import Part
from glmquant.glm.parts.routing import DOWN, GATE_UP
from glmquant.quantization.prepare import float_block
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from tests.support.moe import moe_model

SPARSE = 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    directory = tmp_path_factory.mktemp("bfloat16")
    moe_model("glm4_moe_lite").to(torch.bfloat16).save_pretrained(directory)
    return open_checkpoint(directory)


def parts(checkpoint: Checkpoint, *matches: str) -> tuple[Part, Part]:
    rules: list[dict[str, Any]] = [{"match": match, "spec": {"bits": 4, "group_size": 16}} for match in matches]
    recipe = load_recipe(None, {"rules": rules, "fit.equalize": True})
    return float_block(checkpoint, SPARSE, make_plan(recipe, checkpoint.config)).parts


def is_as_it_came(part: Part, stored: Part) -> bool:
    """Linear layers and gains, routed experts apart."""
    same = [torch.equal(linear.dense(), stored.linears[name].dense()) for name, linear in part.linears.items()]
    return all(same) and all(torch.equal(gain, stored.gains[name]) for name, gain in part.gains.items())


def experts_are_as_they_came(part: Part, stored: Part) -> bool:
    assert part.experts is not None
    assert stored.experts is not None
    pairs = [(part.experts.load(0, name).dense(), stored.experts.load(0, name).dense()) for name in (GATE_UP, DOWN)]
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    ("match", "attention", "shared", "experts"),
    [
        ("layers.*.mlp.experts", True, True, False),
        ("layers.*.self_attn.*", False, True, True),
        ("layers.*.shared_experts.*", True, False, True),
        ("*.o_proj", False, True, True),
        ("layers.0.*", True, True, True),
    ],
)
def test_only_parts_with_something_to_quantize_are_equalized(
    checkpoint: Checkpoint, match: str, attention: bool, shared: bool, experts: bool
) -> None:
    stored = checkpoint.block(SPARSE)
    found, mlp = parts(checkpoint, match)
    assert is_as_it_came(found, stored.attention) == attention
    assert is_as_it_came(mlp, stored.mlp) == shared
    assert experts_are_as_they_came(mlp, stored.mlp) == experts


def test_what_stays_float_in_an_equalized_part_keeps_its_dtype(checkpoint: Checkpoint) -> None:
    found, _ = parts(checkpoint, "*.o_proj")
    dtypes = {name: linear.weight.dtype for name, linear in found.linears.items()}
    assert dtypes == {**dict.fromkeys(dtypes, torch.bfloat16), "o_proj": torch.float32}
