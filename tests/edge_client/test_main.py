import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_client.__main__ import app, name_of_host, plan_devices
from edge_client.config import DeviceSettings, EdgeSettings
from edge_client.hosting import HostedDevice
from edge_client.state_folder import lock_folder
from shared.errors import ConfigError

ROOT = Path(__file__).parents[2]
TASK = "tests.edge_client.tasks:AddOne"
NOWHERE = "mqtt://127.0.0.1:1"
MAX_IDLE_KIB = 60 * 1024


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("pi-7", "pi-7"),
        ("Raspberry.local", "raspberry"),
        ("münchen 3", "m-nchen-3"),
        ("", "device"),
        ("---", "device"),
        ("x" * 100, "x" * 60),
    ],
)
def test_name_of_host_is_a_legal_device(host: str, name: str) -> None:
    """Whatever the host is called, the device has a name."""
    assert name_of_host(host) == name


def test_numbered_devices_have_a_part_each() -> None:
    """--devices 3 --id pi are pi-0 to pi-2, each with its third of the data."""
    planned = plan_devices(EdgeSettings(id="pi", data=Path("d")), 3)
    assert planned == [DeviceSettings(id=f"pi-{i}", data=Path("d"), partition=(i, 3)) for i in range(3)]


def test_listed_devices_are_taken_as_they_are() -> None:
    """A rehearsal lists them."""
    listed = [DeviceSettings(id="a"), DeviceSettings(id="b")]
    assert plan_devices(EdgeSettings(devices=listed), None) == listed


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (EdgeSettings(devices=[DeviceSettings(id="a")]), 2),
        (EdgeSettings(devices=[DeviceSettings(id="a")], id="b"), None),
        (EdgeSettings(partition=(0, 2)), 2),
    ],
)
def test_contradiction_is_refused(settings: EdgeSettings, count: int | None) -> None:
    """Two ways to say which devices there are do not go together."""
    with pytest.raises(ConfigError):
        plan_devices(settings, count)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "task is missing"),
        (["--task", "nowhere:task"], "No module named 'nowhere'"),
        (["--task", "tests.edge_client.tasks:Nothing"], "has no 'Nothing'"),
        (["--task", "tests.edge_client.builders:RUN"], "is of type str, without"),
        (["--task", TASK, "--broker", "http://x"], "must begin with mqtt://"),
        (["--task", TASK, "--id", "Ä"], "id = 'Ä'"),
        (["--task", TASK, "--partition", "half"], "is not of the form I/N"),
        (["--task", TASK, "--partition", "3/3"], "there are parts 0 to 2"),
        (["--task", TASK, "--log-level", "loud"], "debug, info, warning or error"),
        (["--config", "nowhere.toml"], "cannot be read"),
    ],
)
def test_wrong_option_is_exit_code_2_with_the_cause(arguments: list[str], said: str) -> None:
    """The operator reads what is wrong, without a traceback."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("check", [[], ["--check-config"]])
def test_data_that_does_not_exist_is_exit_code_2(tmp_path: Path, check: list[str]) -> None:
    """It is named, before any broker is asked; so is that of a device in a list."""
    missing = tmp_path / "nofile.csv"
    result = CliRunner().invoke(app, ["--task", TASK, "--id", "pi", "--data", str(missing), *check])
    assert (result.exit_code, result.output) == (2, f"error: device pi: data '{missing}': No such file or directory\n")
    listed = tmp_path / "list.toml"
    listed.write_text(f"data = '{tmp_path}'\n[[devices]]\nid = 'a'\n[[devices]]\nid = 'b'\ndata = 'no.csv'\n")
    result = CliRunner().invoke(app, ["--config", str(listed), "--task", TASK, *check])
    assert result.exit_code == 2
    assert "device b: data 'no.csv': No such file or directory\n  a relative path begins at the" in result.output


def test_check_config_says_fine() -> None:
    """Settings and task can be checked without a broker."""
    result = CliRunner().invoke(app, ["--task", TASK, "--check-config", "--id", "pi", "--devices", "2"])
    assert (result.exit_code, result.output) == (0, "settings: fine; pi-0, pi-1\n")


@pytest.mark.parametrize(
    ("arguments", "device", "expected"),
    [([], None, True), (["--no-state"], None, False), ([], False, False), (["--no-state"], True, True)],
)
def test_device_keeps_state_unless_it_is_told_not_to(
    arguments: list[str], device: bool | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the command line for all of a process, in its file for each."""
    hosted: list[HostedDevice] = []

    async def run(devices: list[HostedDevice], task: object) -> None:
        hosted.extend(devices)

    monkeypatch.setattr("edge_client.__main__._run", run)
    keeps = "" if device is None else f"keeps_state = {str(device).lower()}"
    config = tmp_path / "device.toml"
    config.write_text(f'task = "{TASK}"\n[[devices]]\nid = "pi"\n{keeps}\n')
    result = CliRunner().invoke(app, ["--config", str(config), *arguments])
    assert (result.exit_code, [each.settings.keeps_state for each in hosted]) == (0, [expected])


@contextmanager
def a_device(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The command as a process of its own, on a broker that is not there."""
    arguments = ["--task", TASK, "--id", "pi", "--folder", str(folder), "--broker", NOWHERE, "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_client", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_folder_in_use_is_exit_code_4(tmp_path: Path) -> None:
    """It names the process that has it."""
    with lock_folder(tmp_path / "fleet" / "pi"), a_device(tmp_path) as process:
        assert process.wait(10) == 4
        assert process.stderr is not None
        assert f"in use by process {os.getpid()}" in process.stderr.read()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_idle_device_is_small_and_ends_cleanly(tmp_path: Path) -> None:
    """Under 60 MiB with a NumPy task, no torch, one line an attempt; SIGTERM ends it with 0."""
    with a_device(tmp_path) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(2)]
        assert all("broker_unreachable" in line and "next_attempt_at" in line for line in lines)
        status = Path(f"/proc/{process.pid}/status").read_text()
        (resident,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
        assert int(resident) < MAX_IDLE_KIB
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_rich_stays_importable_for_the_task() -> None:
    """The command leaves rich out for itself, not for whoever wants it later."""
    code = (
        "import sys, edge_client.__main__\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'rich'], sorted(sys.modules)\n"
        "import rich.table"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
