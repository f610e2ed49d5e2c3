"""What a process has cost so far, read from Linux's /proc: seconds of CPU, and the most memory it ever had.

Not here: when to look (`turn.py`).
"""

import os
import time
from pathlib import Path
from typing import Final

from shared.errors import ConfigError

__all__ = ["check_proc", "cpu_seconds", "peak_rss_bytes"]

_TICKS: Final = os.sysconf("SC_CLK_TCK")
# Counted from the state, which follows the name in parentheses: see proc_pid_stat(5).
_PARENT: Final = 1
_WAITED_FOR: Final = (13, 14)
_SCHEDULER_CLOCK: Final = 2
"""Of a process, see clock_getcpuclockid(3) and the kernel's posix-timers."""


def check_proc() -> None:
    """Refuse a machine without /proc.

    Raises:
        ConfigError: it is not Linux.
    """
    if not Path("/proc/self/stat").exists():
        raise ConfigError("CPU and memory are read from /proc, which this machine does not have", hint="use Linux")


def cpu_seconds(pid: int) -> float:
    """Return the CPU that a process and its descendants have used, ended ones that were waited for included.

    Raises:
        ProcessLookupError: there is no such process.
    """
    stats = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                stats[int(folder.name)] = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                continue
    if pid not in stats:
        raise ProcessLookupError(f"there is no process {pid}")
    family, seconds = [pid], 0.0
    for member in family:  # grows while it is walked
        family += [child for child, stat in stats.items() if int(stat[_PARENT]) == member]
        seconds += _own_seconds(member) + sum(int(stats[member][each]) for each in _WAITED_FOR) / _TICKS
    return seconds


def _own_seconds(pid: int) -> float:
    """Return what a process itself has used. Its clock counts nanoseconds, /proc hundredths of a second."""
    try:
        return time.clock_gettime(~pid << 3 | _SCHEDULER_CLOCK)
    except OSError:  # it ended meanwhile, and is among those waited for next time
        return 0.0


def peak_rss_bytes(pid: int) -> int:
    """Return the most memory that a process has had resident (VmHWM), without its children's.

    Raises:
        ProcessLookupError: there is no such process.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(f"there is no process {pid}") from error
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
