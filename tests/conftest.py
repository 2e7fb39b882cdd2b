"""Settings of all tests."""

import os

from hypothesis import settings

# A busy machine is not a failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# On GitHub's runner, what a command says to people is what it says elsewhere.
os.environ.pop("GITHUB_ACTIONS", None)
