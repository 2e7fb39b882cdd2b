"""A conversation: typed in a terminal, with commands, or line by line from a file or a pipe."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from glmquant.cli.editor import Editor
from glmquant.cli.endings import tell
from glmquant.cli.printing import show, show_answer, show_folded
from glmquant.cli.streams import as_typed
from glmquant.errors import GlmQuantError
from glmquant.inert import inert_line

if TYPE_CHECKING:
    from glmquant.runtime.chat import Chat

COMMANDS: Final = {
    "/system": "TEXT: tell the model TEXT before the first turn; nothing, without TEXT",
    "/thinking": "on or off; auto: as the chat template has it",
    "/reset": "forget the conversation",
    "/help": "show this",
    "/exit": "end; so does Ctrl-D",
}
KEYS: Final = (
    "Ctrl-C stops an answer, which is then forgotten. Arrow keys edit the line and recall earlier ones, Tab completes "
    "commands. A line that begins with // is sent from its second / on."
)
SWITCH: Final = {"on": True, "off": False, "auto": None}


def is_by_hand() -> bool:
    """Whether somebody types the lines and reads the answers in a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def say_what_is_loaded(bundle: Path, chat: "Chat") -> None:
    """A banner, on stderr."""
    from glmquant.core.hub_cache import snapshot
    from glmquant.runtime.description import described

    _say(f"{inert_line(described(snapshot(bundle)))}, a context of {chat.max_length:,} tokens")
    if chat.system is not None:
        _say(f"system: {inert_line(chat.system)}")
    if chat.thinking is not None:
        _say(f"thinking: {_switched(chat.thinking)}")
    _say("/help lists commands, Ctrl-C stops an answer, Ctrl-D ends")


def of_lines(chat: "Chat", *, as_json: bool, quiet: bool) -> None:
    """Answers each line of stdin, blank ones passed over; an error or an interrupt ends it."""
    while True:
        if sys.stdin.isatty():
            show("> ", end="", to=sys.stderr)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            pieces = chat.say(as_typed(line.strip(), sys.stdin.encoding))
            _say_what_is_left_out(chat, quiet)
            show_answer(pieces, as_json)


def converse(chat: "Chat", *, as_json: bool, quiet: bool) -> None:
    """Answers what is typed until Ctrl-D or /exit; an error or Ctrl-C ends an answer, and not the conversation."""
    editor = Editor(list(COMMANDS))
    while True:
        try:
            line = editor.ask("> ")
        except KeyboardInterrupt:
            _say("\nCtrl-D ends the conversation")
            continue
        if line is None or line.strip() == "/exit":
            if line is None:
                show("")
            return
        try:
            _take(as_typed(line.strip(), sys.stdin.encoding), chat, as_json=as_json, quiet=quiet)
        except GlmQuantError as error:
            tell(error)


def _take(line: str, chat: "Chat", *, as_json: bool, quiet: bool) -> None:
    if line.startswith("/") and not line.startswith("//"):
        _obey(line, chat)
        return
    if not line:
        return
    before, pieces = chat.messages, chat.say(line.removeprefix("/") if line.startswith("//") else line)
    _say_what_is_left_out(chat, quiet)
    with _stopping_at_interrupt() as is_stopped:
        show_answer(_until(is_stopped, pieces), as_json)
        if is_stopped() and chat.messages == before:
            _say("stopped: this turn is forgotten")


def _obey(line: str, chat: "Chat") -> None:
    command, _, rest = line.partition(" ")
    value = rest.strip()
    if command == "/help":
        _say("\n".join([*(f"{name:10} {does}" for name, does in COMMANDS.items()), KEYS]))
    elif command == "/reset":
        chat.reset()
        _say("the conversation is forgotten" + ("; the system message stays" if chat.system else ""))
    elif command == "/system":
        chat.system = value or None
        _say(f"system: {inert_line(value)}" if value else "no system message")
    elif command == "/thinking" and value in SWITCH:
        chat.thinking = SWITCH[value]
        _say(f"thinking: {_switched(chat.thinking)}")
    elif command == "/thinking":
        _say(f"thinking: {_switched(chat.thinking)}; /thinking on, off or auto changes it")
    else:
        _say(f"there is no command {inert_line(command)}; /help lists those there are, and how to send a line with /")


def _switched(thinking: bool | None) -> str:
    return next(word for word, value in SWITCH.items() if value is thinking)


def _say_what_is_left_out(chat: "Chat", quiet: bool) -> None:
    if chat.left_out and not quiet:
        _say(f"the context of {chat.max_length:,} tokens is full: the oldest {chat.left_out} turns are forgotten")


def _until(is_stopped: Callable[[], bool], pieces: Iterator[str]) -> Iterator[str]:
    """The pieces until it is stopped; the rest is never asked for, so that the turn does not join the conversation."""
    for piece in pieces:
        if is_stopped():
            return
        yield piece


@contextmanager
def _stopping_at_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C only asks to stop while the context lasts, so that it falls between two tokens; a second one interrupts
    as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked, before = threading.Event(), signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _say(text: str) -> None:
    show_folded(text, to=sys.stderr)
