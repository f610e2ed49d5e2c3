"""Lines of JSON in a file that nothing depends on: a view for people of what the journal decides.

A line is not synchronised, a torn last line is cut off, and a full disk costs lines, never the run.

Not here: what the lines say (`history.py`, `timeline_lines.py`).
"""

import errno
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import structlog

from shared.errors import ConfigError

__all__ = ["append_lines", "cut_torn_line", "read_lines"]

log = structlog.get_logger(__name__)


def append_lines(path: Path, entries: Iterable[dict[str, Any]]) -> bool:
    """Append entries in one write, all or none; return whether they are there. Blocks: for the lane DISK."""
    lines = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    try:
        with path.open("ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            try:
                if (n_written := file.write(lines)) != len(lines):
                    raise OSError(errno.ENOSPC, f"{n_written} of {len(lines)} bytes were taken")
            except OSError:
                file.truncate(start)  # half a line would spoil the next
                raise
    except OSError as error:
        log.warning("view_not_written", error=str(error), path=str(path))
        return False
    return True


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, entry), also while the file is being written: a last line that is not whole is left out.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: a line is no JSON.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise ConfigError("not a line of JSON", where=f"{path} line {number}") from error


def cut_torn_line(path: Path) -> None:
    """Cut off what stands behind the last whole line."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        os.truncate(path, whole)
