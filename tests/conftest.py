"""What every test gets: an environment without FedMQ's own variables, and Hypothesis without a stopwatch."""

import os

import pytest
from hypothesis import settings

# A shared build machine stalls now and then: that is no failure. pytest-timeout ends what really hangs.
settings.register_profile("fedmq", deadline=None)
settings.load_profile("fedmq")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A FEDMQ__A__B variable of whoever runs the tests does not change what they test."""
    for name in os.environ:
        if name.startswith("FEDMQ__"):
            monkeypatch.delenv(name)
