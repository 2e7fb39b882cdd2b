"""The hub of the tests of hub/."""

from tests.hub.conftest import cache, hub

__all__ = ["cache", "hub"]
