"""A command on several ranks: which can, who speaks, and how all of them end together, with one message."""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Final, Literal

import typer

from glmquant import __version__
from glmquant.cli.endings import BAD_INPUT, TERMINATED, ending_of, tell
from glmquant.cli.printing import show
from glmquant.cli.streams import ReaderGoneError, lead_nowhere
from glmquant.core.ranks import RankLostError, Ranks, are_several, joined, last_words
from glmquant.errors import GlmQuantError

RANKED: Final = ("demo", "run", "calibrate", "quantize", "check")
"""Commands that share their work."""

NAME: Final = "glmquant: "


def require_ranked(command: str | None) -> None:
    """Raises GlmQuantError where a command is started on several ranks that cannot share its work."""
    if command is not None and command not in RANKED and are_several():
        raise GlmQuantError(
            f"{command} does not run on several ranks",
            where=f"WORLD_SIZE={os.environ['WORLD_SIZE']}",
            expected=f"one process, or one of {', '.join(RANKED)}",
            hint=f"start it without torchrun: glmquant {command} …",
        )


@contextmanager
def one_of_several(debug: bool) -> Iterator[None]:
    """Joins the ranks this process was started with, if any, and ends with them: all exit with one code.

    Raises:
        typer.Exit: an error that was told, by this rank or another.
    """
    if not are_several():
        yield
        return
    with ExitStack() as stack:
        ranks = _met(joined(), stack)
        verdict: typer.Exit | None = None
        try:
            _begin(ranks)
            try:
                yield
            except typer.Exit as reached:
                verdict = reached
            except ReaderGoneError:
                pass
            sys.stdout.flush()
            _stay_to_the_end()
            ranks.barrier()
        except BaseException as error:
            _stay_to_the_end()
            raise _ended_together(error, ranks, debug) from None
    if verdict is not None:
        raise verdict


def _met(context: AbstractContextManager[Ranks], stack: ExitStack) -> Ranks:
    try:
        return stack.enter_context(context)
    except RankLostError as error:
        raise GlmQuantError(f"the ranks do not meet: {error}", where=f"rank {os.environ['RANK']}") from error


def _facts() -> dict[str, str]:
    """What must be the same on every rank before anything is read; what is read is compared where it is known."""
    import torch

    from glmquant.core.arithmetic import arithmetic

    return {"glmquant": __version__, **arithmetic(torch.float32), "the command": " ".join(sys.argv[1:])}


def _begin(ranks: Ranks) -> None:
    """The first rank speaks; what must be the same on all of them is compared."""
    if not ranks.is_first:
        lead_nowhere(sys.stdout)
        logging.getLogger("glmquant").addHandler(logging.NullHandler())
    ranks.require_same(_facts)


def _stay_to_the_end() -> None:
    """torchrun terminates the ranks that are left when the first one exits with a code: by now, with theirs."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class Ending:
    """How one rank ends.

    Attributes:
        why: by an error of its own, told to stop, or since another was lost.
    """

    why: Literal["error", "stopped", "lost"]
    code: int
    message: str


def outcome(endings: Mapping[int, Ending], count: int) -> tuple[int, str]:
    """Exit code and message of all ranks together, from the endings of those that told one."""
    errors = {rank: each for rank, each in sorted(endings.items()) if each.why == "error"}
    for rank, each in errors.items():
        if rank == 0:
            return each.code, each.message
        return each.code, f"{NAME}rank {rank} stopped: {each.message.removeprefix(NAME)}"
    stopped = [each for each in endings.values() if each.why == "stopped"]
    missing = ", ".join(f"rank {rank}" for rank in range(count) if rank not in endings)
    if missing and len(stopped) < len(endings):
        return BAD_INPUT, f"{NAME}{missing} stopped without a word: killed, out of memory, or its machine is gone"
    if stopped:
        return stopped[0].code, f"{stopped[0].message}; no word of {missing}" if missing else stopped[0].message
    return BAD_INPUT, f"{NAME}the ranks lost each other: {min(endings.items())[1].message}"


def _ended_together(error: BaseException, ranks: Ranks, debug: bool) -> BaseException:
    mine, spoken = _ending_of(error), False

    def speak(heard: dict[int, bytes]) -> None:
        nonlocal spoken
        spoken = True
        message = outcome(_read(heard), ranks.count)[1]
        if message != mine.message:
            show(message, to=sys.stderr)
        elif not hasattr(error, "exit_code"):
            tell(error, debug=debug)

    heard = last_words(json.dumps(asdict(mine)).encode(), speak)
    code, message = outcome(_read(heard), ranks.count)
    if spoken and hasattr(error, "exit_code") and message == mine.message:
        return error  # a usage error, which Typer shows
    return typer.Exit(code)


def _read(heard: Mapping[int, bytes]) -> dict[int, Ending]:
    return {rank: Ending(**json.loads(words)) for rank, words in heard.items()}


def _ending_of(error: BaseException) -> Ending:
    if isinstance(error, RankLostError):
        return Ending("lost", TERMINATED, str(error))
    if hasattr(error, "exit_code"):
        return Ending("error", error.exit_code, f"{NAME}{error}")
    code, message = ending_of(error)
    return Ending("stopped" if isinstance(error, KeyboardInterrupt) else "error", code, message)
