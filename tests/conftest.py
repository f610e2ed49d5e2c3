"""What every test gets: an environment without FedMQ's own variables, and Hypothesis without a stopwatch.

Asynchronous tests marked `virtual_time` run on a loop whose clock jumps; all of `tests/integration` do.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import pytest
import structlog
from hypothesis import settings

from simulator.virtual_time import VirtualTimeLoop

LONGEST_VIRTUAL_S = 100_000.0
"""What waits longer waits for ever; asyncio catches what pytest-timeout raises in a loop that is busy."""

# A shared build machine stalls now and then: that is no failure. pytest-timeout ends what really hangs.
settings.register_profile("fedmq", deadline=None)
settings.load_profile("fedmq")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A FEDMQ__A__B variable of whoever runs the tests does not change what they test."""
    for name in os.environ:
        if name.startswith("FEDMQ__"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that sets up logging, as every command does, does so for itself alone."""
    configure = structlog.configure
    # a logger that has kept what was set up when it was first used keeps it for all tests to come
    monkeypatch.setattr(structlog, "configure", lambda **how: configure(**{**how, "cache_logger_on_first_use": False}))
    yield
    structlog.reset_defaults()


def pytest_configure(config: pytest.Config) -> None:
    """Say what our own marker means."""
    config.addinivalue_line("markers", "virtual_time: runs on an event loop whose clock jumps to the next timer")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Choose the event loop of a test."""
    marker = item.get_closest_marker("virtual_time")
    if marker or (config.rootpath / "tests" / "integration") in item.path.parents:
        limit_s = marker.kwargs.get("limit_s", LONGEST_VIRTUAL_S) if marker else LONGEST_VIRTUAL_S
        return {"virtual": partial(VirtualTimeLoop, limit_s=limit_s)}
    return {"real": asyncio.new_event_loop}
