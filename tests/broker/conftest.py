"""Brokers that the tests of this folder share: started when first asked for, ended with the session."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.server.embedded_process import has_embedded
from broker.server.mosquitto import find_mosquitto

ROOT = Path(__file__).parents[2]

pytest.register_assert_rewrite("tests.broker.contract")


@pytest.fixture(autouse=True)
def _skip_without_mosquitto(request: pytest.FixtureRequest) -> None:
    """A test marked `mosquitto` says why it is skipped where there is none."""
    if request.node.get_closest_marker("mosquitto") and find_mosquitto() is None:
        pytest.skip("no mosquitto on this machine")


def _url_of(kind: str) -> Iterator[str]:
    command = [sys.executable, "-m", "broker", "--port", "0", "--kind", kind, "--json", "--log-level", "error"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.terminate()


@pytest.fixture(scope="session")
def mosquitto_url() -> Iterator[str]:
    """URL of a Mosquitto with the project's configuration; for tests marked `mosquitto`."""
    yield from _url_of("mosquitto")


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    """URL of the embedded broker."""
    if not has_embedded():
        pytest.skip("the extra 'embedded' is not installed")
    yield from _url_of("embedded")
