from pathlib import Path

import pytest

from benchmarks.common.child import Cost
from benchmarks.gptq_large.run import pass_of
from benchmarks.refactor.run import DEMO, NEW, OLD, ROOT, Bench, Paired, weights_digests
from glmquant.quantization.calibrate import sample_texts
from glmquant.quantization.work import quantize_rate
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import make_plan
from glmquant.store.checkpoint import open_checkpoint


def cost(seconds: float, peak: int = 1000) -> Cost:
    return Cost(seconds, seconds, peak, "")


@pytest.mark.parametrize(
    ("step", "old", "new", "met"),
    [
        ("gptq", cost(100), cost(103), True),
        ("gptq", cost(100), cost(104), False),
        ("gptq", cost(0.1), cost(0.12), False),
        ("help", cost(0.1), cost(0.12), True),
        ("help", cost(0.1), cost(0.14), False),
        ("gptq", cost(100), cost(50, peak=1040), False),
    ],
)
def test_neither_time_nor_memory_may_grow(step: str, old: Cost, new: Cost, met: bool) -> None:
    assert Paired(step, [old], [new]).met is met


def test_a_round_that_was_disturbed_decides_nothing() -> None:
    assert Paired("gptq", [cost(1)] * 3, [cost(1), cost(1), cost(9)]).met


def test_each_tree_runs_its_own_code(tmp_path: Path) -> None:
    bench = Bench({OLD: ROOT, NEW: ROOT}, DEMO, DEMO, tmp_path)
    assert bench.step("recipes", 1).met is not None
    with pytest.raises(SystemExit, match="is imported from"):
        Bench({OLD: tmp_path, NEW: ROOT}, DEMO, DEMO, tmp_path)


def test_weights_are_compared_by_place_and_content(tmp_path: Path) -> None:
    for tree, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / tree / "onnx").mkdir(parents=True)
        (tmp_path / tree / "onnx" / "model.onnx.data").write_bytes(content)
    a, b, c = (weights_digests(tmp_path / tree) for tree in "abc")
    assert a == b != c
    assert list(a) == ["onnx/model.onnx.data"]


def test_the_rate_that_quantize_reports_is_read() -> None:
    checkpoint, recipe = open_checkpoint(DEMO), load_recipe("demo")
    samples = sample_texts(checkpoint, recipe.calibration)
    said = quantize_rate(checkpoint, make_plan(recipe, checkpoint.config), samples, [0, 1], 12.5)
    seconds, gigaflops = pass_of(Cost(13, 20, 1000, f"quantizing: 2 of 2\n{said}\n"))
    assert seconds == 12.5
    assert gigaflops > 1
