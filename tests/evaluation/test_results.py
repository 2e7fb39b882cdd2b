from dataclasses import replace
from html.parser import HTMLParser

from glmquant.evaluation.results import ModelFacts
from glmquant.evaluation.statistics import Interval
from glmquant.recipe.check_options import Limits
from tests.support.reports import SETTING, report, task

EVIL = "<script>alert(1)</script>&\"'"


def words(page: str) -> str:
    parser, found = HTMLParser(), []
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(page)
    return " ".join(" ".join(found).split())


def test_a_report_is_one_line_in_a_session() -> None:
    assert repr(report()) == (
        "<AccuracyReport fail: onnx (3.4 GB) against chatglm2-6b; perplexity ratio 1.02 (1.016 to 1.024); "
        "reviews: accuracy drop 0.02 (-0.01 to 0.05); 1 of 3 limits met>"
    )
    assert "0 of 0 limits" in repr(replace(report(), language=None, tasks=(), limits=()))


def test_large_values_leave_their_lists_out_of_their_repr() -> None:
    for value in (report().language, task(), task().baseline, SETTING):
        assert len(repr(value)) < 1600
    assert "windows=" not in repr(report().language)
    assert "answers=" not in repr(task())


def test_a_notebook_shows_verdict_sizes_and_limits() -> None:
    shown = words(report()._repr_html_())
    for part in (
        "onnx: fail , 3.4 GB (baseline chatglm2-6b, 12.5 GB)",
        "perplexity_ratio of text 1.02 (1.016 to 1.024) at most 1.5 pass: the whole confidence interval is within",
        "accuracy_drop of reviews 0.02 (-0.01 to 0.05) at most 0.01 inconclusive: ",
    ):
        assert part in shown


def test_a_notebook_shows_what_was_not_measured_and_no_limits() -> None:
    missing = replace(report(), limits=(replace(report().limits[0], measured=None, verdict=None, subject=None),))
    assert "perplexity_ratio at most 1.5 not measured" in words(missing._repr_html_())
    assert "No limits are set: nothing is judged." in words(report(Limits())._repr_html_())


def test_names_cannot_break_a_notebook() -> None:
    named = replace(report(), setting=replace(SETTING, candidate=ModelFacts(EVIL, 1)))
    assert "<script" not in named._repr_html_()
    assert EVIL in words(named._repr_html_())


def test_an_interval_in_words() -> None:
    interval = Interval(1.01234, 1.0, 1.02, 16, 0.1)
    assert (str(interval), f"{interval:.1f}") == ("1.012 (1 to 1.02)", "1.0 (1.0 to 1.0)")
    assert str(replace(interval, low=None, high=None)) == "1.012"
    assert Interval(0.02, -0.01, 0.05, 9, 0.1).percent() == "2.00 (-1.00 to 5.00) %"


def test_the_size_ratio_is_unknown_where_the_baselines_size_is() -> None:
    assert SETTING.size_ratio == 3.4 / 12.5
    assert replace(SETTING, baseline=ModelFacts("remote", 0)).size_ratio is None
