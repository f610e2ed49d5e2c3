"""`python -m broker`."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from broker.server.embedded_process import has_embedded
from broker.server.mosquitto import find_mosquitto

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> list[str]:
    """The program and its arguments."""
    return [sys.executable, "-m", "broker", *arguments]


@pytest.mark.skipif(find_mosquitto() is None and not has_embedded(), reason="no broker on this machine")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_url_is_printed_and_a_signal_ends_it_cleanly(number: signal.Signals) -> None:
    """Standard output is one line of JSON; Ctrl-C and SIGTERM end broker and program, with exit code 0."""
    with subprocess.Popen(command("--port", "0", "--json"), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        port = int(facts["url"].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=5.0):
            pass
        process.send_signal(number)
        assert process.wait(timeout=10.0) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5.0)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("mosquitto", marks=pytest.mark.skipif(find_mosquitto() is None, reason="no Mosquitto here")),
        pytest.param("embedded", marks=pytest.mark.skipif(not has_embedded(), reason="amqtt is not installed")),
    ],
)
def test_killed_program_leaves_nothing_behind(kind: str, tmp_path: Path) -> None:
    """SIGKILL, after which it can do nothing itself, ends the broker, too, and its temporary folder goes."""
    arguments = command("--port", "0", "--json", "--kind", kind)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert len(list(tmp_path.iterdir())) == (kind == "mosquitto")
        client = socket.create_connection(("127.0.0.1", int(facts["url"].rpartition(":")[2])), timeout=5.0)
        process.kill()
    with client, contextlib.suppress(ConnectionResetError):
        assert client.recv(1) == b""  # its end, and no time-out
    assert not list(tmp_path.iterdir())


def test_taken_port_exits_with_2_and_says_what_to_do() -> None:
    """The error is one a person can act on, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(command("--port", port), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert port in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_teaches() -> None:
    """Help names the options, what to type next and the exit codes."""
    done = subprocess.run(command("--help"), cwd=ROOT, capture_output=True, text=True, check=True)
    for word in ("--port", "--host", "--kind", "--json", "edge_client", "mosquitto_sub", "Exit codes"):
        assert word in done.stdout
