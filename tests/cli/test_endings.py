"""One exit code means one thing, whatever was raised, with ``--debug`` and without."""

import builtins
import errno
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmquant import __main__, assets
from glmquant.cli import app, main
from glmquant.cli.endings import INTERRUPTED, ISSUES, Terminated, stopping_at_sigterm
from glmquant.cli.verdict import EXIT_CODES
from glmquant.errors import CheckpointError, GlmQuantError

ROOT = Path(__file__).parents[2]


class AcceleratorError(RuntimeError):
    """What torch 2.8 and later raise when a GPU is lost, without torch."""


class TimedOutError(Exception):
    """As httpx has it."""


TimedOutError.__module__ = "httpx._exceptions"

ENDINGS: dict[str, tuple[BaseException, int, str]] = {
    "bad input": (GlmQuantError("no good", hint="lower `memory_limit`"), 2, "lower `--memory-limit`"),
    "full disk": (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, "the disk is full"),
    "full disk, told by Rust": (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "disk is full"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded", "/x"), 2, "the disk is full"),
    "permission": (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "Permission denied"),
    "failing disk": (OSError(errno.EIO, "Input/output error", "/x"), 2, "Input/output error"),
    "memory": (MemoryError(), 2, "memory ran out"),
    "memory, told by torch": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "memory ran"),
    "threads beyond the limit": (OSError(errno.ENOMEM, "Cannot allocate memory"), 2, "memory ran out"),
    "lost device": (AcceleratorError("CUDA error: device-side assert"), 2, "the device failed"),
    "lost device, told by an older torch": (RuntimeError("CUDA error: unspecified launch failure"), 2, "the device"),
    "network": (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), 2, "Connection reset by peer"),
    "network, told by httpx": (TimedOutError("timed out"), 2, "the network failed: timed out"),
    "a fault": (KeyError("layers.0"), 70, "KeyError: 'layers.0'"),
    "a fault without words": (AssertionError(), 70, "(AssertionError)"),
    "a fault of many lines": (TypeError("a\nb\n\nc"), 70, "TypeError: a b c"),
    "a recursion of ours": (RecursionError("maximum recursion depth exceeded"), 70, ISSUES),
    "interrupt": (KeyboardInterrupt(), 130, "interrupted\n"),
    "termination": (Terminated(), 143, "terminated\n"),
}


@pytest.mark.parametrize(("error", "code", "said"), ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("debug", [False, True], ids=["", "--debug"])
def test_every_ending_has_its_code(
    error: BaseException,
    code: int,
    said: str,
    debug: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr("glmquant.packaged_recipes", fails)
    with pytest.raises(SystemExit) as stopped:
        main([*(["--debug"] if debug else []), "recipes"])
    captured = capsys.readouterr()
    assert (stopped.value.code, captured.out) == (code, "")
    assert said in captured.err
    assert ("Traceback" in captured.err) == (debug and isinstance(error, Exception))
    if code == 70 and not debug:
        assert len(captured.err.splitlines()) == 1
        assert ISSUES in captured.err


def test_the_place_to_report_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Issues"] == ISSUES


def documented(text: str) -> set[int]:
    return {int(code) for code in re.findall(r"(?<![\w.])(\d+) (?=[a-z])", text)}


def test_the_codes_are_documented_where_people_look(capsys: pytest.CaptureFixture[str]) -> None:
    codes = {0, 1, 2, 3, 4, 70, 130, 143}
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split("Exit codes:")[1].split())
    assert documented(told) == codes
    assert documented((app.__doc__ or "").split("Exit codes:")[1]) == codes
    assert set(EXIT_CODES.values()) <= codes
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert documented(readme[readme.index("The exit code is 0") :].partition("Or step by step")[0]) == codes


def test_debug_never_changes_the_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["inspect", str(tmp_path / "nowhere")], ["quantize"], ["recipes"]):
        codes = []
        for debug in ([], ["--debug"]):
            with pytest.raises(SystemExit) as stopped:
                main([*debug, *arguments])
            codes.append(stopped.value.code)
        assert codes[0] == codes[1]
    assert CheckpointError.__name__ in capsys.readouterr().err


def begun(*arguments: object, until: Callable[[str], bool]) -> "subprocess.Popen[str]":
    """A command in a process of its own, once a line of its stderr says so."""
    command = [sys.executable, "-m", "glmquant", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while not until(line := process.stderr.readline()):
        assert line
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to handle")
def test_a_terminated_run_keeps_what_is_finished(tmp_path: Path) -> None:
    slow = [
        "--set",
        "calibration.num_samples=128",
        "--set",
        "calibration.seq_len=256",
        "--set",
        "check.text=[glmquant:held-out-en.txt]",
    ]
    arguments = ["run", assets.DEMO_MODEL, "-r", "int4-g128-gptq", "-o", tmp_path / "out", "--ci", *slow]
    process = begun(*arguments, until=lambda line: "quantizing: " in line)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143
    assert said.endswith("terminated\n")
    assert "Traceback" not in said
    assert "resumes from there" in " ".join(said.split())
    assert (tmp_path / "out.partial").is_dir() or (tmp_path / "out").is_dir()


def test_a_signal_that_someone_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stopping_at_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_signal_is_given_back() -> None:
    with pytest.raises(Terminated), stopping_at_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_interrupt_while_the_command_is_imported_ends_it_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = builtins.__import__

    def interrupted(module: str, *arguments: Any, **named: Any) -> Any:
        if module == "glmquant.cli":
            raise KeyboardInterrupt
        return find(module, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    with pytest.raises(SystemExit) as stopped:
        __main__.main()
    assert stopped.value.code == INTERRUPTED
    assert capsys.readouterr() == ("", "")
