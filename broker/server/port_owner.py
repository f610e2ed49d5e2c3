"""Who listens on a TCP port of this machine, as far as Linux tells: for an error message that helps.

A listening socket is found by its port in /proc/net/tcp, and its process by the socket's inode among the open files of
all processes. Those of other users are closed to us, and on other systems there is no /proc: then nothing is said.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from shared.errors import ConfigError

__all__ = ["chosen_port", "port_owner"]

_LISTEN = "0A"


def port_owner(port: int) -> str | None:
    """Return the listener's name and pid, such as "mosquitto (pid 4711)"; None: unknown."""
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for process in Path("/proc").glob("[0-9]*") if wanted else ():
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if any(os.readlink(file) in wanted for file in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return None


def chosen_port(host: str, port: int) -> int:
    """Return a port that can be listened on now: `port` itself, or any that is free when it is 0.

    Raises:
        ConfigError: it is taken, is not ours to open, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
            chosen: int = probe.getsockname()[1]
            return chosen
    except OSError as error:
        owner = port_owner(port)
        raise ConfigError(
            f"port {port} of {host} cannot be used: {f'{owner} listens on it' if owner else error.strerror}",
            hint="choose another with --port, or --port 0 for any that is free",
        ) from error


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
