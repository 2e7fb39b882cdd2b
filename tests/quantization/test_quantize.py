from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from glmquant import api
from glmquant.data.calibration import CalibrationSet
from glmquant.errors import CalibrationError, CheckpointError, RecipeError
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.quantization.quantize import quantize
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.recipe.schema import Recipe
from glmquant.store.checkpoint import open_checkpoint
from tests.support.checkpoints import float_tensors, tiny_config, write_checkpoint
from tests.support.paths import CHATGLM2, contents


def samples_for(model: Path) -> CalibrationSet:
    tokenizer = load_tokenizer(model, open_checkpoint(model).config)
    tokens = torch.randint(0, 2000, (4, 32), generator=torch.Generator().manual_seed(1))
    return CalibrationSet(tokens, (), tokenizer.sha256, 0)


def recipe(method: str = "gptq") -> Recipe:
    overrides = {
        "rules": [
            {"match": "lm_head", "spec": {"bits": 8, "group_size": 32}, "method": {"kind": method}},
            {
                "match": "*.down_proj",
                "spec": {"bits": 8, "group_size": 64, "symmetric": False},
                "method": {"kind": "rtn"},
            },
            {"match": "layers.1.*", "keep": True},
            {"match": "layers.*", "spec": {"bits": 4, "group_size": 64}, "method": {"kind": method}},
        ]
    }
    return load_recipe(None, overrides)


class StopAt:
    """Interrupts as Ctrl-C would, when ``layer`` blocks are done."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __call__(self, stage: str, done: int, total: int) -> None:
        if done == self.layer:
            raise KeyboardInterrupt


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
@pytest.mark.parametrize("method", ["gptq", "rtn"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path, layer: int, method: str) -> None:
    samples = samples_for(CHATGLM2)
    api.quantize(CHATGLM2, recipe(method), samples, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        api.quantize(CHATGLM2, recipe(method), samples, out=tmp_path / "broken", progress=StopAt(layer))
    assert not (tmp_path / "broken").exists()
    steps: list[int] = []
    api.quantize(
        CHATGLM2,
        recipe(method),
        samples,
        out=tmp_path / "broken",
        progress=lambda stage, done, total: steps.append(done),
    )
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_what_another_recipe_left_is_not_mixed_in(tmp_path: Path) -> None:
    samples = samples_for(CHATGLM2)
    with pytest.raises(KeyboardInterrupt):
        api.quantize(CHATGLM2, recipe("rtn"), samples, out=tmp_path / "out", progress=StopAt(2))
    api.quantize(CHATGLM2, recipe("gptq"), samples, out=tmp_path / "out")
    api.quantize(CHATGLM2, recipe("gptq"), samples, out=tmp_path / "clean")
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


CHOICE = {"spec": {"bits": 4, "group_size": 64}, "alternatives": [{"bits": 8, "group_size": 64}]}
ALLOCATED = {"rules": [{"match": "layers.*", **CHOICE}], "allocate": {"average_bits": 6}}


@pytest.mark.parametrize("changes", [{}, ALLOCATED])
def test_keys_that_later_stages_read_may_change_in_between(tmp_path: Path, changes: dict[str, Any]) -> None:
    samples, first = samples_for(CHATGLM2), load_recipe(None, changes) if changes else recipe()
    edited = load_recipe(None, {"description": "edited", "check.limits.mean_kl": 0.5, "export.dtype": "float16"})
    update = {key: getattr(edited, key) for key in ("description", "check", "export")}
    second = first.model_copy(update=update)
    stop = StopAt(2)
    with pytest.raises(KeyboardInterrupt):
        api.quantize(
            CHATGLM2,
            first,
            samples,
            out=tmp_path / "out",
            progress=lambda stage, done, total: stop(stage, done, total) if stage == "quantizing" else None,
        )
    steps: list[tuple[str, int]] = []
    api.quantize(
        CHATGLM2, second, samples, out=tmp_path / "out", progress=lambda stage, done, _: steps.append((stage, done))
    )
    assert ("quantizing", 1) not in steps
    api.quantize(CHATGLM2, second, samples, out=tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_artifact_says_what_was_done(tmp_path: Path) -> None:
    artifact = api.quantize(CHATGLM2, recipe(), samples_for(CHATGLM2), out=tmp_path / "out")
    assert artifact.manifest is not None
    records = {record.name: record for record in artifact.manifest.groups}
    assert list(records)[-1] == "lm_head"
    fitted, kept = records["layers.0.self_attn.qkv_proj"], records["layers.1.self_attn.o_proj"]
    assert fitted.method == "gptq"
    assert fitted.output_error is not None
    assert 0 < fitted.output_error < 0.1
    assert kept.spec is None
    rounded = records["layers.0.mlp.down_proj"]
    assert (rounded.method, rounded.output_error) == ("rtn", None)


def test_a_method_that_needs_samples_does_not_run_without(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="`calibrate` first"):
        api.quantize(CHATGLM2, recipe(), None, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_samples_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    foreign = CalibrationSet(torch.zeros(2, 8, dtype=torch.int64), (), "0" * 64, 0)
    with pytest.raises(CalibrationError, match="another tokenizer"):
        api.quantize(CHATGLM2, recipe(), foreign, out=tmp_path / "out")


def test_a_rule_that_matches_nothing_stops_before_any_work(tmp_path: Path) -> None:
    wrong = load_recipe(None, {"rules": [{"match": "layer.*", "spec": {"bits": 4}}]})
    with pytest.raises(RecipeError, match=r"rules\.0\.match"):
        api.quantize(CHATGLM2, wrong, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("allocate", [False, True], ids=["fitted", "allocated"])
def test_activations_that_are_not_finite_stop_it_where_they_arise(tmp_path: Path, allocate: bool) -> None:
    """Only fitting to samples sees them: calibrating no longer runs the model."""
    config = replace(tiny_config(), float_dtype="float32")
    tensors = {name: tensor.float() for name, tensor in float_tensors(config).items()}
    tensors["model.layers.0.mlp.down_proj.weight"] *= 1e37
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "model", config, tensors))
    rule: dict[str, object] = {"match": "layers.1.*", "spec": {"bits": 4, "group_size": 32}, "method": {"kind": "gptq"}}
    choice = {"alternatives": [{"bits": 8, "group_size": 32}]}
    budget = {"allocate.average_bits": 6} if allocate else {}
    plan = make_plan(load_recipe(None, {"rules": [rule | (choice if allocate else {})], **budget}), config)
    samples = CalibrationSet(torch.randint(0, 160, (2, 16), generator=torch.Generator().manual_seed(0)), (), "", 0)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=r"not finite\n  where: after layers\.0"):
        quantize(checkpoint, plan, samples, tmp_path / "out")
