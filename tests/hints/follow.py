"""How a test says whose hint it follows.

``@follows(WORDS)`` on a test means: the test meets an error with this hint, does what the hint says, and sees that it
works. ``place`` tells hints in the same words apart. That the error is met is checked here each time the test runs;
``test_every_hint.py`` checks that no hint of the package is left.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import pytest

from glmquant.errors import GlmQuantError
from tests.hints.places import Hint, hints

Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True)
class Met:
    """An error that was made: its hint, and the functions of the package that were running."""

    hint: str
    places: frozenset[str]

    def is_of(self, hint: Hint) -> bool:
        return hint.fits(self.hint) and (not hint.is_given or hint.place in self.places)


def follows(words: str, place: str = "") -> Callable[[Test], Test]:
    """Marks a test that follows the hint of these words, and checks that its error is met."""
    wanted = named(words, place)

    def mark(test: Test) -> Test:
        @wraps(test)
        def checked(*args: Any, **kwargs: Any) -> None:
            with met_errors() as met:
                test(*args, **kwargs)
            assert any(each.is_of(wanted) for each in met), f"the test meets no error with the hint of {wanted}"

        return checked  # type: ignore[return-value]

    return mark


def named(words: str, place: str = "") -> Hint:
    """The one hint of these words, at a place whose name ends in ``place``, or contains it."""
    found = [each for each in hints() if each.words == words and place in each.place]
    found = [each for each in found if each.place.endswith(place)] or found
    assert len(found) == 1, f"{words!r} at {place!r}: {', '.join(map(str, found)) or 'no hint of the package'}"
    return found[0]


def refused(act: Callable[[], object], hint: str = "") -> GlmQuantError:
    """The error that ``act`` ends in, with this in its hint."""
    with pytest.raises(GlmQuantError) as caught:
        act()
    assert hint in (caught.value.hint or "")
    return caught.value


@contextmanager
def met_errors() -> Iterator[list[Met]]:
    """All errors of the package that are made meanwhile and have a hint."""
    met: list[Met] = []
    original = GlmQuantError.__init__

    @wraps(original)
    def noted(self: GlmQuantError, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self.hint is not None:
            met.append(Met(self.hint, frozenset(_running())))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GlmQuantError, "__init__", noted)
        yield met


def _running() -> Iterator[str]:
    frame = inspect.currentframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("glmquant."):
            name = _qualified(frame.f_code)
            yield f"{module.removeprefix('glmquant.')}:{name}"
        frame = frame.f_back


def _qualified(code: Any) -> str:
    return str(code.co_qualname).replace(".<locals>", "").removesuffix(".<lambda>").removesuffix(".<genexpr>")
