import re
from dataclasses import replace
from itertools import pairwise

import pytest

from glmquant.core.spec import QuantSpec
from glmquant.evaluation.gate import Direction, Verdict
from glmquant.evaluation.results import ModelFacts
from glmquant.reports import plots
from glmquant.store.manifest import GroupRecord
from tests.support.reports import SETTING, language, report, task


def attributes(drawing: str, kind: str, name: str) -> list[float]:
    """Numbers of one attribute of the elements of a class, in order."""
    elements = re.findall(rf'<[^>]*class="{kind}"[^>]*>', drawing)
    return [float(re.search(rf' {name}="([^"]*)"', element)[1]) for element in elements]  # type: ignore[index]


@pytest.mark.parametrize("direction", Direction)
def test_the_forbidden_side_of_a_limit_is_shaded(direction: Direction) -> None:
    drawn = plots.limit_strip(replace(report().limits[0], direction=direction))
    (bound,), (start,), (width,) = (
        attributes(drawn, kind, name) for kind, name in (("limit", "x1"), ("forbidden", "x"), ("forbidden", "width"))
    )
    at_most = direction is Direction.AT_MOST
    assert start == pytest.approx(bound if at_most else 8.0)
    assert start + width == pytest.approx(292.0 if at_most else bound, abs=1e-2)
    (dot,) = attributes(drawn, "dot pass", "cx")
    assert dot < bound  # 1.02 is below 1.5


def test_a_limit_that_was_not_measured_has_no_strip() -> None:
    assert plots.limit_strip(replace(report().limits[0], measured=None, verdict=None)) == ""


def test_bars_are_as_high_as_the_divergence_of_their_window() -> None:
    metrics = language(("en.txt", "zh.txt"))
    heights = attributes(plots.divergence_along_text(metrics), "fill0", "height")[:8]
    ratios = [height / window.kl for height, window in zip(heights, metrics.windows, strict=False)]
    assert ratios == pytest.approx([ratios[0]] * 8, rel=1e-4)


def test_larger_models_stand_further_right() -> None:
    reports = [
        replace(report(), setting=replace(SETTING, candidate=ModelFacts(name, size)), verdict=verdict)
        for name, size, verdict in (
            ("s", 10**9, Verdict.PASS),
            ("m", 3 * 10**9, Verdict.PASS),
            ("l", 9 * 10**9, Verdict.PASS),
        )
    ]
    places = attributes(plots.quality_against_size(reports), "dot pass", "cx")
    assert len(places) == 3
    assert all(left < right for left, right in pairwise(places))


def test_layers_with_larger_errors_are_stronger_and_float_groups_say_so() -> None:
    spec = QuantSpec(4, 32)
    groups = [GroupRecord(f"layers.{i}.mlp.down_proj", spec, "rtn", 1e-4 * 10**i) for i in range(3)]
    drawn = plots.layer_map([*groups, GroupRecord("layers.0.self_attn.o_proj")])
    depths = attributes(drawn.partition("relative error")[0], "heat", "fill-opacity")
    assert depths == pytest.approx([0.0, 0.08, 0.54, 1.0])
    assert "layers.0.self_attn.o_proj: kept float" in drawn


def test_the_error_of_a_groups_output_counts_where_it_was_measured() -> None:
    assert plots.relative_error(GroupRecord("lm_head", None, None, 0.5, 0.25)) == 0.25
    assert plots.relative_error(GroupRecord("lm_head", None, None, 0.5, None)) == 0.5


def test_a_confusion_matrix_shades_shares_of_the_true_label() -> None:
    drawn = plots.confusion(task().baseline, "baseline")
    cells = drawn.partition("right: 0 %")[0]
    assert attributes(cells, "heat", "fill-opacity") == [0.8, 0.9]
    assert attributes(cells, "heat wrong", "fill-opacity") == [0.2, 0.1]
    assert "neg predicted as pos|好: 20 of 100" in drawn
