"""Hints on methods, recipes, quantization and the ONNX graph."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import QuantSpec
from glmquant.core.stats import HessianAccumulator, LayerStats
from glmquant.data.calibration import CalibrationSet
from glmquant.errors import GlmQuantError
from glmquant.glm.config import ExpertsConfig
from glmquant.glm.linear import Linear
from glmquant.glm.names import HEAD
from glmquant.glm.parts.mlp import swiglu
from glmquant.glm.parts.routing import RoutedExperts, Router
from glmquant.methods import METHODS, Gptq, Rtn
from glmquant.onnx_export.expert_matrices import write_experts
from glmquant.onnx_export.feasible import expert_block, require_dimensions
from glmquant.onnx_export.matrices import cast, matrix_writer
from glmquant.onnx_export.save import cache_ranges
from glmquant.onnx_export.weights_file import WeightsFile
from glmquant.quantization.allocate import allocated, budget_bytes, require_budget
from glmquant.quantization.calibrate import key_value_ranges, require_own_tokens
from glmquant.quantization.linear_pass import require_float
from glmquant.quantization.on_the_fly import QuantizedOnTheFly
from glmquant.quantization.quantize import quantize
from glmquant.recipe.load import load_recipe, parse_override
from glmquant.recipe.plan import make_plan
from glmquant.recipe.schema import Allocation, ExportOptions
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from tests.hints.follow import follows, refused
from tests.support.models import TINY, random_source
from tests.support.paths import CHATGLM2

SPEC = QuantSpec(4, 32, True)
REFERENCE = "docs/recipe.md describes every key"
ANY = "{}{}docs/recipe.md describes every key"
CALIBRATE_FIRST = "`calibrate` first, and give what it gives as `calibration`"
RULE = {"match": "layers.0.*", "spec": {"bits": 4, "group_size": 32}}
WEIGHT = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))


def stats(tokens: int, seed: int = 0) -> LayerStats:
    accumulator = HessianAccumulator(64)
    accumulator.add(torch.randn(tokens, 64, generator=torch.Generator().manual_seed(seed)))
    return accumulator.result()


@follows("calibrate first, or use method: {kind: rtn}, which needs none")
def test_gptq_takes_statistics_and_rtn_needs_none() -> None:
    refused(lambda: Gptq().quantize(WEIGHT, SPEC, None))
    assert Gptq().quantize(WEIGHT, SPEC, stats(100)).shape == WEIGHT.shape
    assert METHODS["rtn"]().quantize(WEIGHT, SPEC, None).shape == WEIGHT.shape


@follows(
    "see that the checkpoint is whole; where the layer gets no input on purpose, give it a rule of its own, above the "
    "others, with method: {kind: rtn} or keep: true",
)
def test_a_layer_without_inputs_has_a_rule_of_its_own() -> None:
    silent = LayerStats(torch.zeros(64, 64), 100)
    rules: list[dict[str, Any]] = [RULE | {"match": "layers.*", "method": {"kind": "gptq"}}]
    for own in ({"method": {"kind": "rtn"}}, {"keep": True, "spec": None}):
        first = {key: value for key, value in (RULE | {"match": "*.o_proj"} | own).items() if value is not None}
        plan = make_plan(load_recipe(None, {"rules": [first, *rules]}), TINY)["layers.0.self_attn.o_proj"]
        assert plan.method is None or plan.method.quantize(WEIGHT, SPEC, silent).shape == WEIGHT.shape
    refused(lambda: Gptq().quantize(WEIGHT, SPEC, silent))


@pytest.mark.parametrize(("damping", "tokens"), [(1e-12, 2000), (0.01, 2)], ids=["more tokens", "more damping"])
@follows("calibrate on more tokens, or raise damping")
def test_a_hessian_of_few_tokens_is_made_definite(damping: float, tokens: int) -> None:
    refused(lambda: Gptq(damping=1e-12).quantize(WEIGHT, SPEC, stats(2)))
    assert Gptq(damping=damping).quantize(WEIGHT, SPEC, stats(tokens)).shape == WEIGHT.shape


def quantized(spec: QuantSpec) -> QuantTensor:
    return Rtn().quantize(WEIGHT, spec, None)


@follows("quantize with such a spec, or export with export.dynamic_int8=false")
def test_dynamic_int8_has_one_scale_a_row(tmp_path: Path) -> None:
    file = WeightsFile(tmp_path / "data")
    dynamic, static = (
        matrix_writer(file, torch.float32, ExportOptions(dynamic_int8=dynamic)) for dynamic in (True, False)
    )
    refused(lambda: dynamic.linear("x", quantized(QuantSpec(8, 32, True))))
    dynamic.linear("x", quantized(QuantSpec(8, -1, True)))
    static.linear("y", quantized(QuantSpec(8, 32, True)))


@follows("use export.profile=ort, or more bits")
def test_two_bits_are_for_the_ort_profile(tmp_path: Path) -> None:
    file = WeightsFile(tmp_path / "data")
    standard, ort = (
        matrix_writer(file, torch.float32, ExportOptions(profile=profile)) for profile in ("standard", "ort")
    )
    refused(lambda: standard.linear("x", quantized(QuantSpec(2, 32, True))))
    standard.linear("x", quantized(SPEC))
    ort.linear("y", quantized(QuantSpec(2, 32, True)))


@follows("export with export.dtype=float32; if it is not finite there either, the checkpoint is damaged")
def test_large_values_fit_float32() -> None:
    large = torch.tensor([1e5])
    refused(lambda: cast("x", large, torch.float16))
    assert cast("x", large, torch.float32).item() == 1e5
    refused(lambda: cast("x", large / 0, torch.float32))


@follows("use export.profile=standard")
def test_heads_of_any_size_are_for_the_standard_profile() -> None:
    config = replace(TINY, head_dim=24)
    refused(lambda: require_dimensions(config, ExportOptions()))
    require_dimensions(config, ExportOptions(profile="standard"))


@follows("set export.profile=ort", "without_experts")
def test_routed_experts_are_for_the_profile_ort() -> None:
    config = replace(TINY, experts=ExpertsConfig(8, 2, 32, 1, 1.0, 0))
    refused(lambda: require_dimensions(config, ExportOptions(profile="standard")))
    profile = load_recipe(None, dict([parse_override("export.profile=ort")])).export.profile
    require_dimensions(config, ExportOptions(profile=profile))


@follows("quantize the experts with group_size: 32, 64 or 128, whichever divides the columns, or with -1")
def test_groups_of_experts_divide_the_columns() -> None:
    def block(group_size: int) -> int:
        return expert_block("experts", [(QuantSpec(4, group_size), columns) for columns in (192, 64)])

    refused(lambda: block(128))
    assert [block(size) for size in (32, 64, -1)] == [32, 64, 0]


@follows("quantize the float model with glmquant, which writes such experts")
def test_experts_quantized_here_are_written(tmp_path: Path) -> None:
    router = Router(torch.zeros(8, 64), torch.zeros(8), 2, 1.0)

    def write(name: str, *bits: int) -> object:
        experts = RoutedExperts(
            "layers.0.mlp.experts",
            router,
            len(bits),
            lambda expert, _: Linear(quantized(QuantSpec(bits[expert], 32))),
            swiglu,
        )
        with WeightsFile(tmp_path / name) as file:
            return write_experts(file, "mlp", experts, torch.float32)

    refused(lambda: write("others", 4, 8))
    assert write("own", 4, 4)


@follows("calibrate with export.kv_cache={} and give that, or use export.kv_cache=float")
def test_a_quantized_cache_has_ranges() -> None:
    options, source = ExportOptions(kv_cache="int8"), random_source()
    refused(lambda: cache_ranges(TINY, options, None))
    assert not cache_ranges(TINY, ExportOptions(kv_cache="float"), None)
    samples = CalibrationSet(torch.zeros(1, 8, dtype=torch.int64), (), "", 0)
    assert len(cache_ranges(TINY, options, key_value_ranges(source, samples))) == TINY.num_hidden_layers


@follows("calibrate this very model")
def test_ranges_of_another_model_are_made_anew() -> None:
    options, samples = ExportOptions(kv_cache="int8"), CalibrationSet(torch.zeros(1, 8, dtype=torch.int64), (), "", 0)
    other = replace(TINY, num_hidden_layers=1)
    refused(lambda: cache_ranges(TINY, options, key_value_ranges(random_source(other), samples)))
    assert cache_ranges(TINY, options, key_value_ranges(random_source(TINY), samples))


def checkpoint() -> Checkpoint:
    return open_checkpoint(CHATGLM2)


def samples_of(model: Checkpoint) -> CalibrationSet:
    tokens = torch.randint(0, 2000, (2, 16), generator=torch.Generator().manual_seed(1))
    return CalibrationSet(tokens, (), model.tokenizer.sha256, 0)


@follows(CALIBRATE_FIRST, "quantization.quantize")
def test_a_fitted_rule_takes_a_calibration(tmp_path: Path) -> None:
    model = checkpoint()
    plan = make_plan(load_recipe(None, {"rules": [RULE | {"method": {"kind": "gptq"}}]}), model.config)
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    refused(lambda: quantize(model, plan, None, tmp_path / "first"))
    quantize(model, plan, samples_of(model), tmp_path / "second")


@follows(CALIBRATE_FIRST, "quantization.allocate")
def test_an_allocation_takes_a_calibration(tmp_path: Path) -> None:
    model = checkpoint()
    rule = RULE | {"alternatives": [{"bits": 8, "group_size": 32}], "method": {"kind": "rtn"}}
    plan = make_plan(load_recipe(None, {"rules": [rule], "allocate.average_bits": 6}), model.config)
    refused(lambda: allocated(model, plan, None, tmp_path, lambda *_: None))
    assert allocated(model, plan, samples_of(model), tmp_path, lambda *_: None).recipe.allocate is None


@follows("raise the budget, or offer fewer bits")
def test_a_budget_covers_the_smallest_choices() -> None:
    groups = make_plan(load_recipe(None, {"rules": [RULE]}), TINY).groups[:1]
    low, high = (budget_bytes(Allocation(average_bits=bits), groups) for bits in (4, 6))
    four, two = ({group.name: {QuantSpec(bits, 32)} for group in groups} for bits in (4, 2))
    refused(lambda: require_budget(low, groups, four))
    require_budget(high, groups, four)
    require_budget(low, groups, two)


@follows("start from the original", "linear_pass")
def test_the_original_is_float() -> None:
    refused(lambda: require_float("x", Linear(quantized(SPEC))))
    assert require_float("x", Linear(WEIGHT)) is WEIGHT


@follows("start from the original; this one can be exported as it is", "quantization.quantize:quantize")
def test_a_gptq_checkpoint_is_not_quantized_again(tmp_path: Path) -> None:
    model = checkpoint()
    plan = make_plan(load_recipe(None, {"rules": [RULE | {"method": {"kind": "rtn"}}]}), model.config)
    (tmp_path / "once").mkdir()
    quantize(model, plan, None, tmp_path / "once")
    once = tmp_path / "once"
    for file in CHATGLM2.glob("tokenizer*"):
        (once / file.name).write_bytes(file.read_bytes())
    again = open_checkpoint(once)
    (tmp_path / "twice").mkdir()
    refused(lambda: quantize(again, plan, None, tmp_path / "twice"))
    assert again.lm_head().weight.shape[0] == again.config.vocab_size  # what an export reads


@follows("calibrate with this checkpoint")
def test_samples_are_of_the_checkpoints_own_tokenizer() -> None:
    model = checkpoint()
    refused(lambda: require_own_tokens(replace(samples_of(model), tokenizer="0" * 64), model))
    require_own_tokens(samples_of(model), model)


@follows("quantize first, and export what that gives; without a recipe a checkpoint is exported as it is")
def test_an_export_quantizes_by_rules_without_samples() -> None:
    model = checkpoint()
    fitted, plain, none = (
        make_plan(load_recipe(None, {"rules": rules}), model.config)
        for rules in ([RULE | {"method": {"kind": "gptq"}}], [RULE | {"method": {"kind": "rtn"}}], [])
    )
    refused(lambda: QuantizedOnTheFly(model, fitted))
    QuantizedOnTheFly(model, plain)
    QuantizedOnTheFly(model, none)


@follows("give it a rule of its own above the others, without alternatives")
def test_lm_head_has_a_rule_of_its_own() -> None:
    choosing = RULE | {"match": "*", "alternatives": [{"bits": 8, "group_size": 32}], "method": {"kind": "rtn"}}
    budget = {"allocate.average_bits": 6}
    refused(lambda: make_plan(load_recipe(None, {"rules": [choosing], **budget}), TINY))
    own = RULE | {"match": "lm_head", "method": {"kind": "rtn"}}
    assert not make_plan(load_recipe(None, {"rules": [own, choosing], **budget}), TINY)["lm_head"].alternatives
    assert HEAD


@follows(ANY, "_explained")
def test_the_key_that_is_meant_is_one() -> None:
    error = refused(lambda: load_recipe(None, {"calibration.num_sample": 2}))
    key = str(error.hint).removeprefix("did you mean ").partition("?")[0]
    assert load_recipe(None, {key: 2}).calibration.num_samples == 2


@follows(ANY, "_explained")
@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("check.text=[yes]", 'check.text=["yes"]'),
        ("check.limits.top1_agreement=97%", "check.limits.top1_agreement=0.97"),
        ("check.limits.perplexity_ratio=3%", "check.limits.perplexity_ratio=1.03"),
    ],
)
def test_a_value_written_as_told_is_taken(given: str, written: str) -> None:
    error = refused(lambda: load_recipe(None, dict([parse_override(given)])))
    assert "put the text in quotes" in str(error.hint) or written.partition("=")[2] in str(error.hint)
    assert load_recipe(None, dict([parse_override(written)]))


@follows(ANY, "_explained")
@follows(REFERENCE, "parse_override")
def test_the_reference_describes_the_key() -> None:
    refused(lambda: parse_override("8"), REFERENCE)
    refused(lambda: load_recipe(None, {"calibration.num_samples": "many"}), REFERENCE)
    told = (Path(__file__).parents[2] / REFERENCE.split(maxsplit=1)[0]).read_text(encoding="utf-8")
    assert "num_samples" in told
    assert load_recipe(None, dict([parse_override("calibration.num_samples=8")])).calibration.num_samples == 8


@follows("quote it, as in key='[a, b]'")
def test_a_quoted_list_is_one_argument() -> None:
    refused(lambda: parse_override("check.text=[a,"))  # what the shell makes of it without quotes
    assert parse_override("check.text=[a, b]") == ("check.text", ["a", "b"])


@follows("did you mean {}?", "recipe.load:_find")
@follows("<did_you_mean>", "recipe.load:_find")
def test_the_recipe_that_is_meant_loads(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("version: 1")
    for given in ("int4-g128-gtpq", str(tmp_path / "mine.yml")):
        error = refused(lambda given=given: load_recipe(given))
        assert load_recipe(str(error.hint).removeprefix("did you mean ").removesuffix("?"))


@follows("{} is a directory: were recipe and model swapped?")
def test_a_model_in_the_recipes_place_is_told(tmp_path: Path) -> None:
    assert "were recipe and model swapped?" in str(refused(lambda: load_recipe(tmp_path)).hint)
    assert load_recipe("demo")


def test_settings_that_hints_name_can_be_set() -> None:
    for text in ("export.dynamic_int8=false", "export.profile=ort", "export.dtype=float32", "export.kv_cache=float"):
        with pytest.raises(GlmQuantError):
            load_recipe(None, dict([parse_override(text + "x")]))
        load_recipe(None, dict([parse_override(text)]))
