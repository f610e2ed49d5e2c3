"""Runs Mosquitto with the project's `mosquitto.conf`, its listener moved to the address and port that are wanted."""

import asyncio
import contextlib
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from broker.server.port_owner import chosen_port
from broker.server.process import RunningBroker, supervised
from shared.errors import ConfigError

__all__ = ["find_mosquitto", "running_mosquitto", "with_listener"]

_ALSO_LOOKED_IN = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
"""Where Debian and Homebrew put it; not on every user's PATH."""
_CLEAR_UP = 'read _; rm -rf "$2"; kill "$1"'
"""In a shell: once standard input closes, delete a folder and end a process."""
_LISTENER = re.compile(r"^listener[ \t].*$", re.MULTILINE)


def find_mosquitto() -> Path | None:
    """Return Mosquitto's program; None: it is not installed."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=":".join(_ALSO_LOOKED_IN))
    return Path(found) if found else None


def with_listener(configuration: str, host: str, port: int) -> str:
    """Return a configuration of Mosquitto with its one listener moved.

    Raises:
        ConfigError: it does not have exactly one `listener` line.
    """
    moved, n_listeners = _LISTENER.subn(f"listener {port} {host}", configuration)
    if n_listeners != 1:
        raise ConfigError(f"{n_listeners} listener lines, where there has to be one", where="mosquitto.conf")
    return moved


@asynccontextmanager
async def running_mosquitto(
    *, port: int = 0, host: str = "127.0.0.1", configuration: Path | None = None
) -> AsyncIterator[RunningBroker]:
    """Run Mosquitto until the context is left.

    Args:
        port: 0: any that is free.
        host: address to listen on.
        configuration: a file instead of the project's; its `listener` line is replaced.

    Raises:
        ConfigError: it is not installed, the port is taken, or it does not come up.
    """
    program = find_mosquitto()
    if program is None:
        raise ConfigError(
            "there is no mosquitto on this machine",
            hint="Debian, Ubuntu: apt install mosquitto. macOS: brew install mosquitto. Or use --kind embedded",
        )
    path = configuration or _our_configuration()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    chosen = chosen_port(host, port)
    with tempfile.TemporaryDirectory(prefix="fedmq-mosquitto-") as folder:
        moved = Path(folder) / "mosquitto.conf"
        moved.write_text(with_listener(text, host, chosen), encoding="utf-8")
        command = [str(program), "-c", str(moved)]
        async with (
            supervised("mosquitto", command, Path(folder), host, chosen) as running,
            _cleared_up_after(running.pid, folder),
        ):
            yield running


@asynccontextmanager
async def _cleared_up_after(pid: int, folder: str) -> AsyncIterator[None]:
    """End Mosquitto and delete its folder if we are killed, and so cannot do it ourselves.

    A shell waits for the end of a pipe that closes with us. Linux's PR_SET_PDEATHSIG would not do: started by root,
    Mosquitto becomes another user, and the kernel then forgets it.
    """
    shell = await asyncio.create_subprocess_exec(
        "/bin/sh",
        *("-c", _CLEAR_UP, "sh", str(pid), folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,  # whoever reads our output must not wait for it
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            shell.kill()
        await shell.wait()


def _our_configuration() -> Path:
    """In a wheel it lies beside this file, in a clone at its root."""
    beside = Path(__file__).with_name("mosquitto.conf")
    return beside if beside.exists() else Path(__file__).parents[2] / "mosquitto.conf"
