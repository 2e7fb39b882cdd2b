"""Bits go where they matter, within the budget."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glmquant import api, assets
from glmquant.core.spec import QuantSpec
from glmquant.errors import CalibrationError, RecipeError
from glmquant.glm.config import LinearGroup
from glmquant.glm.groups import block_groups
from glmquant.glm.linear import Linear
from glmquant.quantization.allocate import choose
from glmquant.quantization.sensitivity import measure_sensitivities
from glmquant.recipe.load import load_recipe
from glmquant.store.checkpoint import open_checkpoint
from glmquant.streaming.activations import embed
from tests.quantization.test_quantize import StopAt, samples_for
from tests.support.blocks import block_forward
from tests.support.paths import CHATGLM2, contents

SPECS = (QuantSpec(4, 32), QuantSpec(2, 32), QuantSpec(8, 32))
RULES = [
    {"match": "lm_head", "keep": True},
    {
        "match": "layers.*",
        "spec": {"bits": 4, "group_size": 32},
        "alternatives": [{"bits": 2, "group_size": 32}, {"bits": 8, "group_size": 32}],
        "method": {"kind": "gptq"},
    },
]


def group(number: int, rows: int) -> LinearGroup:
    return LinearGroup(f"layers.{number}", (f"model.{number}",), (rows,), 64)


@given(
    rows=st.lists(st.sampled_from([32, 64, 96]), min_size=1, max_size=4),
    share=st.floats(0, 1),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_no_other_choice_within_the_budget_loses_less(rows: list[int], share: float, data: st.DataObject) -> None:
    groups = [group(number, count) for number, count in enumerate(rows)]
    error = st.floats(1e-4, 1.0)
    errors = {g.name: {spec: data.draw(error) for spec in SPECS} for g in groups}

    def size(chosen: tuple[QuantSpec, ...]) -> int:
        return sum(spec.stored_bytes(g.rows, g.columns) for g, spec in zip(groups, chosen, strict=True))

    least, most = size((SPECS[1],) * len(groups)), size((SPECS[2],) * len(groups))
    budget = least + share * (most - least)
    chosen = tuple(choose(groups, errors, budget).values())

    def cost(one: tuple[QuantSpec, ...]) -> float:
        return sum(errors[g.name][spec] for g, spec in zip(groups, one, strict=True))

    affordable = [one for one in product(SPECS, repeat=len(groups)) if size(one) <= budget * (1 + 1e-9)]
    assert size(chosen) <= budget * (1 + 1e-6)
    assert cost(chosen) <= min(map(cost, affordable)) + 1e-4 * max(map(cost, affordable))


def test_a_budget_too_small_says_how_much_is_needed() -> None:
    with pytest.raises(RecipeError, match=r"smallest alternatives take 0\.00"):
        choose([group(0, 32)], {"layers.0": dict.fromkeys(SPECS, 1.0)}, 100)


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """With its presolve HiGHS 1.12 prints three lines on this one."""
    random = np.random.default_rng(4)
    specs = [QuantSpec(2, 32), QuantSpec(4, 128), QuantSpec(4, 64), QuantSpec(4, 32), QuantSpec(8, 128)]
    shapes = [(int(random.choice([576, 960, 3072])), int(random.choice([576, 1536]))) for _ in range(120)]
    groups = [LinearGroup(str(number), ("m",), shape[:1], shape[1]) for number, shape in enumerate(shapes)]
    errors = {
        group.name: {spec: random.lognormal() * 4.0**-spec.bits * spec.group_size**0.3 for spec in specs}
        for group in groups
    }
    choose(groups, errors, 5.25 / 8 * sum(group.rows * group.columns for group in groups))
    assert capfd.readouterr() == ("", "")


@torch.inference_mode()
def test_a_sensitivity_is_what_rounding_that_group_alone_does_to_its_block() -> None:
    checkpoint = open_checkpoint(CHATGLM2)
    tokens = samples_for(CHATGLM2).tokens_SL
    name = block_groups(checkpoint.config, 1)[3].name
    found = measure_sensitivities(checkpoint, {name: SPECS}, tokens, equalized=False)
    assert list(found) == [name]
    assert found[name][SPECS[2]] < 0.02 * found[name][SPECS[0]] < 0.02 * found[name][SPECS[1]]
    activations = embed(tokens, checkpoint.embedding(), checkpoint.config)
    (batch,) = activations.batches
    x, rope = activations.hidden.read(batch), activations.ropes[batch.length]
    x = block_forward(x, checkpoint.block(0).floating(), checkpoint.config, rope)
    block = checkpoint.block(1).floating()
    whole = block_forward(x, block, checkpoint.config, rope)
    half = Linear(block.linears()["mlp.down_proj"].dense() / 2)
    moved = block_forward(x, block.with_linears({"mlp.down_proj": half}), checkpoint.config, rope)
    largest = ((moved - whole).square().sum(-1) / whole.square().sum(-1)).mean()
    assert 0 < found[name][SPECS[0]] < float(largest)


def test_the_artifact_keeps_to_the_budget_and_an_interrupted_run_to_its_bytes(tmp_path: Path) -> None:
    recipe = load_recipe(None, {"rules": RULES, "allocate": {"average_bits": 5.0}, "fit.equalize": True})
    samples = samples_for(CHATGLM2)
    whole = api.quantize(CHATGLM2, recipe, samples, out=tmp_path / "whole")
    assert whole.manifest is not None
    specs = {record.name: record.spec for record in whole.manifest.groups}
    groups = [g for layer in range(whole.config.num_hidden_layers) for g in block_groups(whole.config, layer)]
    stored = sum(spec.stored_bytes(g.rows, g.columns) for g in groups if (spec := specs[g.name]) is not None)
    assert stored * 8 <= 5.0 * sum(g.rows * g.columns for g in groups)
    assert len({spec.bits for spec in specs.values() if spec is not None}) > 1
    for layer in (0, 2):
        with pytest.raises(KeyboardInterrupt):
            api.quantize(CHATGLM2, recipe, samples, out=tmp_path / "broken", progress=StopAt(layer))
    api.quantize(CHATGLM2, recipe, samples, out=tmp_path / "broken")
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_it_does_not_allocate_without_samples(tmp_path: Path) -> None:
    rules = [{**RULES[1], "method": {"kind": "rtn"}}]
    recipe = load_recipe(None, {"rules": rules, "allocate": {"average_bits": 5.0}})
    with pytest.raises(CalibrationError, match="allocation"):
        api.quantize(CHATGLM2, recipe, None, out=tmp_path / "out")


def test_the_head_needs_a_rule_of_its_own(tmp_path: Path) -> None:
    recipe = load_recipe(None, {"rules": [{**RULES[1], "match": "*"}], "allocate": {"average_bits": 5.0}})
    with pytest.raises(RecipeError, match="lm_head"):
        api.quantize(CHATGLM2, recipe, samples_for(CHATGLM2), out=tmp_path / "out")


@pytest.mark.parametrize(
    ("allocate", "problem"),
    [({}, "either"), ({"average_bits": 4, "megabytes": 1}, "either"), ({"average_bits": 0}, "greater than 0")],
)
def test_a_budget_is_one_number(allocate: dict[str, float], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        load_recipe(None, {"rules": RULES, "allocate": allocate})


def test_there_must_be_something_to_choose() -> None:
    with pytest.raises(RecipeError, match="alternatives"):
        load_recipe(None, {"rules": [{"match": "*", "spec": {"bits": 4}}], "allocate": {"average_bits": 4}})


def test_mixed_bits_lose_less_than_the_same_bits_everywhere() -> None:
    checkpoint = open_checkpoint(assets.DEMO_MODEL)
    groups = [g for layer in range(checkpoint.config.num_hidden_layers) for g in block_groups(checkpoint.config, layer)]
    tokens = torch.randint(0, 1000, (2, 64), generator=torch.Generator().manual_seed(0))
    errors = measure_sensitivities(checkpoint, {g.name: SPECS for g in groups}, tokens, equalized=False)
    budget = sum(SPECS[0].stored_bytes(g.rows, g.columns) for g in groups)
    mixed = choose(groups, errors, budget)
    assert sum(errors[n][s] for n, s in mixed.items()) < 0.99 * sum(errors[g.name][SPECS[0]] for g in groups)
