"""The folder of one run: who holds it, and what lies where.

runs/digits/
  lock               pid of the aggregator that holds it, and where the operator reaches it
  journal.sqlite     what was decided, the one source of truth (and journal.head)
  versions/          model versions
  updates/           updates that are accepted or on their way
  history.jsonl      a record a round, for people;  history.png
  timeline.jsonl     what was seen of each lease, for `explain`
  final.safetensors  best.safetensors
"""

import fcntl
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from shared.durable import make_folder
from shared.errors import AlreadyServed, ConfigError

__all__ = ["RunFolder", "anew_hint", "read_lock"]

_ANEW = 'in RUN.toml another name as run, and server.init_from = "{model}"'


class RunFolder:
    """A run's folder, made if it is missing and locked until `close`.

    Raises:
        AlreadyServed: another process holds it.
        ConfigError: it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / "lock"
        self.journal = path / "journal.sqlite"
        self.head = path / "journal.head"
        self.versions = path / "versions"
        self.updates = path / "updates"
        self.history = path / "history.jsonl"
        self.plot = path / "history.png"
        self.timeline = path / "timeline.jsonl"
        self.final = path / "final.safetensors"
        self.best = path / "best.safetensors"
        try:
            for folder in (path, self.versions, self.updates):
                make_folder(folder)
            self._lock = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            hint = "choose another output.folder, or make this one writable"
            raise ConfigError(f"cannot be used: {error.strerror}", where=str(path), hint=hint) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = read_lock(path)
            os.close(self._lock)
            raise AlreadyServed(
                f"another aggregator holds this folder: pid {holder.get('pid', '?')} on {holder.get('host', '?')}",
                where=str(path),
                hint="stop it (python -m aggregator stop), or give this run another name",
            ) from None
        self.held_before = read_lock(path)
        """What the holder before left in the lock file: {} unless it was killed."""
        try:
            self.describe()
        except OSError as error:
            os.close(self._lock)
            hint = "make room, or choose another output.folder"
            raise ConfigError(f"cannot be written: {error.strerror}", where=str(path), hint=hint) from error

    def describe(self, **facts: str) -> None:
        """Write who holds the folder, and more facts about it, into the lock file."""
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), **facts}).encode()
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, text, 0)

    def close(self) -> None:
        """Let go of the folder."""
        os.ftruncate(self._lock, 0)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_lock(path: Path) -> dict[str, Any]:
    """Return what the holder of a run's folder wrote about itself; {} when nobody holds it."""
    try:
        found = json.loads((path / "lock").read_text() or "{}")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def anew_hint(folder: Path, versions: Sequence[int]) -> str:
    """Return what is left to do with a run that cannot go on.

    Args:
        folder: of the run.
        versions: of its versions on disk those that are whole, in ascending order.
    """
    copy = "bring it back from a copy"
    models = [path for name in ("best", "final") if (path := folder / f"{name}.safetensors").exists()]
    if versions:
        out = f"{folder.name}-{versions[-1]}.safetensors"
        export = f"python -m aggregator export RUN.toml --version {versions[-1]} --out {out}"
        return f"{copy}; or begin anew with its newest model: {export}, then {_ANEW.format(model=out)}"
    if models:
        return f"{copy}; or begin anew with the last model that was written for you: {_ANEW.format(model=models[0])}"
    return f"{copy}: no model of it is left here"
