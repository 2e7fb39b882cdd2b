"""Annotations for GitHub's runner: there alone, on stderr, and with nothing in them that it would act on."""

import re
from pathlib import Path

import pytest

from glmquant.cli import main
from glmquant.cli.annotations import annotate, annotate_result
from glmquant.recipe.check_options import Limit, Limits
from tests.support.reports import report

MISSED = Limits(perplexity_ratio=Limit(value=1.001), mean_kl=Limit(value=1.0))
COMMAND = re.compile(r"::(error|warning|notice) title=([^:,]*)::(.*)")


@pytest.fixture
def on_github(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")


def shown(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, ...]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [COMMAND.fullmatch(line).groups() for line in captured.err.splitlines()]  # type: ignore[union-attr]


@pytest.mark.usefixtures("on_github")
def test_a_missed_limit_is_an_error_and_a_met_one_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    annotate_result(report(MISSED), 1)
    ((level, title, message),) = shown(capsys)
    assert (level, title) == ("error", "perplexity_ratio of text%3A fail")
    assert "at most 1.001" in message


@pytest.mark.usefixtures("on_github")
def test_what_does_not_fail_the_step_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    undecided = report(Limits(accuracy_drop=Limit(value=0.02)))
    for code, expected in ((3, "error"), (0, "warning")):
        annotate_result(undecided, code)
        ((level, title, _),) = shown(capsys)
        assert (level, title) == (expected, "accuracy_drop of reviews%3A inconclusive")


@pytest.mark.usefixtures("on_github")
def test_a_check_without_limits_says_how_to_set_some(capsys: pytest.CaptureFixture[str]) -> None:
    annotate_result(report(Limits()), 4)
    ((level, title, message),) = shown(capsys)
    assert (level, title) == ("error", "not judged")
    assert "check.limits.perplexity_ratio" in message


def test_elsewhere_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    annotate_result(report(MISSED), 1)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("on_github")
def test_nothing_in_an_annotation_ends_it_or_begins_another(capsys: pytest.CaptureFixture[str]) -> None:
    annotate("error", "a,b::c\n::d", "100 %\r\n::set-output name=x::y\x1b[2J")
    ((_, title, message),) = shown(capsys)
    assert title == "a%2Cb%3A%3Ac%0A\\u003a%3Ad"
    assert message == "100 %25%0D%0A\\u003a:set-output name=x::y\\u001b[2J"


@pytest.mark.usefixtures("on_github")
def test_an_error_is_annotated_beside_its_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path / "nothing")])
    captured = capsys.readouterr()
    *told, last = captured.err.splitlines()
    assert told[0].startswith("glmquant: ")
    assert last.startswith("::error title=glmquant::")
    assert str(tmp_path / "nothing") in last
