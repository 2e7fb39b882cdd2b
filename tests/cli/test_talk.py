"""A chat in a terminal, as somebody types it."""

import sys
from pathlib import Path

import pytest

import glmquant as gq
from glmquant import assets
from tests.support.paths import GOLDEN

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
UP, LEFT, INTERRUPT, END = "\x1b[A", "\x1b[D", "\x03", "\x04"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gq.export(assets.DEMO_MODEL, "int8-rtn", out=tmp_path_factory.mktemp("demo") / "onnx").path


def test_a_conversation_is_typed_edited_stopped_and_ended(bundle: Path) -> None:
    from tests.support.terminal import in_terminal

    endless = ("--temperature", 1e300, "--seed", 1, "--max-new-tokens", 900)
    with in_terminal("chat", bundle, *endless) as (terminal, process):
        assert f"loading {bundle}" in terminal.expect("demo-model, linear layers of 8 bits, ")
        assert "context of 1,024 tokens" in terminal.expect("/help lists commands, Ctrl-C stops an answer, Ctrl-D ends")
        terminal.expect("> ")
        terminal.type(f"/nosh{LEFT}{LEFT}w\n")
        terminal.expect("there is no command /nowsh")
        terminal.expect("> ")
        terminal.type("/he\t\n")
        terminal.expect("forget the conversation")
        terminal.expect("> ")
        terminal.type(f"{UP}{UP}")
        terminal.expect("nowsh")
        terminal.type("\x15half a line")
        terminal.expect("half a line")
        terminal.interrupt("Ctrl-D ends the conversation")
        terminal.expect("> ")
        terminal.type("你好\n")
        terminal.expect("你好\r\n")
        terminal.expect(" ")
        terminal.type(INTERRUPT)
        terminal.expect("stopped: this turn is forgotten")
        terminal.expect("> ")
        terminal.type("/reset\n")
        terminal.expect("the conversation is forgotten")
        terminal.expect("> ")
        terminal.type("/system 你是助手\n")
        terminal.expect("takes no system message")
        terminal.expect("> ")
        terminal.type(END)
        assert process.wait(timeout=60) == 0


def test_a_full_context_forgets_the_oldest_turns_and_says_so(bundle: Path) -> None:
    from tests.support.terminal import in_terminal

    with in_terminal("chat", bundle, "--max-new-tokens", 1) as (terminal, process):
        for _ in range(3):
            terminal.expect("> ")
            terminal.type(f"{'Debian ' * 400}\n")
        terminal.expect("the context of 1,024 tokens is full: the oldest 2 turns are forgotten")
        terminal.expect("> ")
        terminal.type(f"{'Debian ' * 2000}\n")
        terminal.expect("which leaves no room for 1 new ones")
        terminal.expect("> ")
        terminal.type("/exit\n")
        assert process.wait(timeout=60) == 0


def test_a_model_with_a_system_message_keeps_it(tmp_path: Path) -> None:
    from tests.support.terminal import in_terminal

    bundle = gq.export(GOLDEN["chatglm3-tiny"], out=tmp_path / "onnx").path
    options = ("--system", "短", "--max-new-tokens", 1, "--json")
    with in_terminal("chat", bundle, *options) as (terminal, process):
        terminal.expect("float linear layers")
        terminal.expect("system: 短")
        terminal.expect("> ")
        terminal.type("/thinking on\n")
        terminal.expect("has no switch for thinking")
        terminal.expect("> ")
        terminal.type("//help\n")
        terminal.expect('{"answer": ')
        terminal.expect("> ")
        terminal.type("/system\n")
        terminal.expect("no system message")
        terminal.expect("> ")
        terminal.type(END)
        assert process.wait(timeout=60) == 0
