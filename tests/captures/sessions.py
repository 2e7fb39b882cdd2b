"""What is captured: a few sessions of a user, in a shell of 80 or 120 columns, on the model in the package."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import glmquant as gq
from glmquant import assets
from tests.support.screen import Shell, shell

COLUMNS: Final = (80, 120)
DEMO: Final = "glmquant demo --out out"
RUN: Final = """\
glmquant run ./chatglm2-6b --recipe int4-g128-gptq --out ./int4 \\
    --set calibration.data='[zh_en.txt]' --set calibration.num_samples=32 \\
    --set calibration.seq_len=512 \\
    --set check.text='[held_out.txt]' --set check.num_tokens=4096"""
GATE: Final = """\
glmquant check ./onnx --baseline ./chatglm2-6b --text held_out.txt \\
    --set check.num_tokens=2048 --set check.limits='{perplexity_ratio: 0.5}' \\
    --out ./failing || echo "exit code $?\""""
BAR: Final = r"[ ━╸╺]+\d+/\d+ +\d:\d\d:\d\d"

Screen = tuple[str, str]
"""What it is taken of, and what is shown."""


def demo(at: Shell) -> Iterator[Screen]:
    """A run on the model in the package"""
    yield from _run(at, DEMO)


def run(at: Shell) -> Iterator[Screen]:
    """A run on a checkpoint, with texts of one's own"""
    yield from _run(at, RUN)


def failing_gate(at: Shell) -> Iterator[Screen]:
    """A gate that fails"""
    at.type(GATE)
    at.until_asked()
    yield "at the end", at.text()


def chat(at: Shell) -> Iterator[Screen]:
    """A chat with the bundle"""
    at.type("glmquant chat ./onnx --max-new-tokens 16")
    at.until_asked("> ")
    for line in ("/help", "你好", "/nosuch"):
        at.type(line)
        at.until_asked("> ")
    at.type("/exit")
    at.until_asked()
    yield "at the end", at.text()


def _run(at: Shell, command: str) -> Iterator[Screen]:
    at.type(command)
    at.until_shown("quantizing" + BAR)
    yield "while it quantizes", at.text()
    at.until_shown("comparing, tokens" + BAR)
    yield "while it checks", at.text()
    at.until_asked()
    yield "at the end", at.text()


SESSIONS: Final[Mapping[str, Callable[[Shell], Iterator[Screen]]]] = {
    "demo": demo,
    "run": run,
    "failing-gate": failing_gate,
    "chat": chat,
}


def captured(name: str, columns: int, desk: Path) -> str:
    """A session's screens, each under a line that says when it was taken; ``desk`` is as :func:`prepare` left it."""
    with shell(columns, desk) as at:
        screens = [f"[{when}]\n{_without_prompt(text)}" for when, text in SESSIONS[name](at)]
    return "\n".join(screens)


def prepare(desk: Path) -> None:
    """Puts what the sessions name into this directory, a bundle too."""
    shutil.copytree(assets.DEMO_MODEL, desk / "chatglm2-6b")
    shutil.copy(assets.CALIBRATION_TEXT, desk / "zh_en.txt")
    shutil.copy(assets.DIRECTORY / "held-out-en.txt", desk / "held_out.txt")
    gq.export(desk / "chatglm2-6b", "int8-rtn", out=desk / "onnx")


def _without_prompt(text: str) -> str:
    return text.removesuffix("$\n")
