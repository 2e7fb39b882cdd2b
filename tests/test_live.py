"""How far work is, in lines: pace, silence, notebooks' cells, and the steps of a run."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import glmquant as gq
from glmquant import assets, live
from glmquant.live import Cell, Lines, Stage, shown
from glmquant.progress import Step, Steps, silent

FEW = {"calibration.num_samples": 2, "calibration.seq_len": 32, "check.num_tokens": 256, "check.seq_len": 64}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SECONDS_OF_SILENCE": 0.1, "SECONDS_BETWEEN_LINES": 0.2, "SECONDS_BETWEEN_LOOKS": 0.02}.items():
        monkeypatch.setattr(live, name, value)


class StoppedError(Exception):
    pass


def until(said: list[str], holds: Callable[[str], bool]) -> None:
    end = time.monotonic() + 30
    while not any(map(holds, list(said))):
        assert time.monotonic() < end, said
        time.sleep(0.01)


def test_time_left_goes_by_the_pace_since_the_stage_began() -> None:
    stage = Stage("quantizing", 10, 28, now=100.0)
    assert stage.left(100.0) is None
    stage.move(12, 28, now=120.0)
    assert stage.left(120.0) == 160.0
    assert stage.left(125.0) == 155.0
    assert stage.words(125.0) == "quantizing: 12 of 28, about 3 min left"


def test_a_step_that_takes_longer_than_those_before_slows_the_pace() -> None:
    stage = Stage("quantizing", 0, 10, now=0.0)
    stage.move(1, 10, now=1.0)
    assert stage.left(19.0) == 19.0 / 2 * 8


def test_before_the_first_step_is_done_the_forecast_speaks() -> None:
    stage = Stage("quantizing", 0, 10, now=0.0, expected=60.0)
    assert stage.words(15.0) == "quantizing: 0 of 10, about 45 s left"
    assert stage.words(75.0) == "quantizing: 0 of 10, 75 s so far"
    assert Stage("quantizing", 0, 10, now=0.0).words(1.0) == "quantizing: 0 of 10"


@pytest.mark.usefixtures("quick")
def test_a_log_shows_life_within_a_step_and_between_stages() -> None:
    said: list[str] = []
    with Lines(said.append) as lines:
        until(said, lambda line: line.startswith("working, "))
        lines("exporting", 1, 2)
        until(said, lambda line: line.startswith("exporting: 1 of 2, "))
        lines("exporting", 2, 2)
        assert said.pop() == "exporting: 2 of 2"
        said.clear()
        until(said, lambda line: line.startswith("working, "))


def test_a_log_gets_fewer_lines_the_longer_a_stage_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    lines, now = Lines(said.append), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for second in range(7200):
        now[0] = float(second)
        lines("quantizing", second, 7200)
    assert 7200 / live.MOST_SECONDS_BETWEEN_LINES < len(said) < 300


@pytest.mark.usefixtures("quick")
def test_a_cell_keeps_a_line_for_each_stage_and_changes_the_last() -> None:
    said: list[str] = []
    with Cell(said.append) as cell:
        cell("exporting", 1, 2)
        cell("exporting", 2, 2)
        cell.note("a note\x1b[2J")
        cell("checking", 0, 3)
        until(said, lambda text: "checking: 0 of 3, " in text)
    assert said[0] == "exporting: 1 of 2"
    assert said[-1].splitlines()[:2] == ["exporting: 2 of 2", "a note\\u001b[2J"]
    assert len(said[-1].splitlines()) == 3


def test_stages_show_the_place_of_their_step() -> None:
    said: list[str] = []
    with Lines(said.append) as lines:
        steps = Steps([Step("export"), Step("check", 60.0)], lines)
        for does, stage in (("quantize", "quantizing"), ("export", "exporting"), ("check", "comparing")):
            steps.begin(does)
            lines(stage, 0, 2)
    assert said == ["quantizing: 0 of 2", "1 of 2 exporting: 0 of 2", "2 of 2 comparing: 0 of 2, about 60 s left"]


def test_true_shows_progress_and_notes_and_false_shows_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = gq.load_recipe("int8-rtn", {**FEW, "check.text": ["glmquant:held-out-en.txt"]})
    gq.run(assets.DEMO_MODEL, recipe, out=tmp_path / "told", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["1 of 3 quantize", "2 of 3 export", "3 of 3 check"]
    assert "2 of 3 exporting: 6 of 6" in lines
    gq.run(assets.DEMO_MODEL, recipe, out=tmp_path / "silent", progress=False)
    assert capsys.readouterr().err == ""
    assert logging.getLogger("glmquant").handlers == []
    with shown(silent) as progress:
        assert progress is silent


def test_a_run_that_takes_a_while_says_how_long(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        raise StoppedError

    with caplog.at_level(logging.INFO, "glmquant"), pytest.raises(StoppedError):
        gq.run(assets.DEMO_MODEL, "demo", out=tmp_path / "out", progress=stop)
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("about ") and "of memory and" in line for line in said)
    assert any(line.startswith("1 of 3 quantize, about ") for line in said)
    assert "3 of 3 check" in said


def test_a_run_that_goes_on_names_what_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "exporting":
            raise StoppedError

    recipe = gq.load_recipe("int8-rtn", {**FEW, "check.text": ["glmquant:held-out-en.txt"]})
    with pytest.raises(StoppedError):
        gq.run(assets.DEMO_MODEL, recipe, out=tmp_path / "out", progress=stop)
    with caplog.at_level(logging.INFO, "glmquant"):
        gq.run(assets.DEMO_MODEL, recipe, out=tmp_path / "out")
    assert [r.getMessage() for r in caplog.records if " of 2 " in r.getMessage()] == ["1 of 2 export", "2 of 2 check"]
