"""Settings of all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from glmquant.methods import METHODS

# A busy machine is not a failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture
def own_methods() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = dict(METHODS.data)
    yield
    METHODS.data = before
