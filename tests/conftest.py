"""Settings of all tests."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from glmquant.methods import METHODS

ROOT = Path(__file__).parents[1]

# A busy machine is not a failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# On GitHub's runner, what a command says to people is what it says elsewhere.
os.environ.pop("GITHUB_ACTIONS", None)


@pytest.fixture
def own_methods() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = dict(METHODS.data)
    yield
    METHODS.data = before


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built with warnings as errors, in an environment of its own; ``MKDOCS`` names one there is."""
    out = tmp_path_factory.mktemp("site")
    command = os.environ.get("MKDOCS")
    if command is None:
        venv = tmp_path_factory.mktemp("mkdocs")
        (wanted,) = re.findall(r'^docs = \["(.+)"\]$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "-q", wanted], check=True)
        command = str(venv / "bin" / "mkdocs")
    built = [command, "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(built, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out
