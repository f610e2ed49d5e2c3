"""Who listens on a port."""

import os
import socket
import sys

import pytest

from broker.server.port_owner import chosen_port, port_owner
from shared.errors import ConfigError

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says who listens")


@linux_only
def test_owner_is_named_with_its_pid() -> None:
    """A port that this process listens on is this process's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        owner = port_owner(taken.getsockname()[1])
    assert owner is not None
    assert f"(pid {os.getpid()})" in owner


def test_owner_of_a_free_port_is_unknown() -> None:
    """Nothing is made up."""
    assert port_owner(chosen_port("127.0.0.1", 0)) is None


def test_free_port_is_free() -> None:
    """0 chooses a port that can then be listened on; one that is free is taken as it is."""
    port = chosen_port("127.0.0.1", 0)
    assert chosen_port("127.0.0.1", port) == port
    with socket.create_server(("127.0.0.1", port)):
        pass


@linux_only
def test_taken_port_is_refused_naming_its_owner() -> None:
    """The error says who has it, and how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="--port 0") as caught:
        chosen_port("127.0.0.1", taken.getsockname()[1])
    assert f"(pid {os.getpid()})" in str(caught.value)


def test_address_of_another_machine_is_refused() -> None:
    """192.0.2.0/24 is nobody's (RFC 5737)."""
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        chosen_port("192.0.2.1", 0)
