"""Settings of all tests."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from glmquant.methods import METHODS

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
