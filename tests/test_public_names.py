"""The verbs, reached as a user reaches them: in a fresh process, whichever comes first."""

import subprocess
import sys

import pytest

SCRIPT = """
import glmquant as gq
getattr(gq, {first!r})
assert all(callable(getattr(gq, name)) for name in gq.__all__), [n for n in gq.__all__ if not callable(getattr(gq, n))]
"""


@pytest.mark.parametrize("first", ["export", "load_recipe"])
def test_every_verb_is_callable(first: str) -> None:
    script = SCRIPT.format(first=first)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
