"""Where the parts of a fleet meet: a folder in the run's own, which in containers is a volume that all of them mount.

runs/digits/rehearsal/
  aggregator.toml    what the aggregator was started with
  control/           a socket a part, through which chaos reaches it (`control.py`)
  claims/            who is which device: a file a device, locked by whoever is it
  devices/           what devices keep, their outboxes among it
  notes/             what each device wrote down of offers and outcomes, for the check in the end
  links/             bytes over each link
  chaos.jsonl        what was done to whom

A container does not know which of several alike it is, and Compose's two versions call them differently. So a device is
whoever holds the lock of its claim: the first that is free is taken, and the system frees it when its holder dies.

Not here: what lies in the folder of the run itself (`aggregator.run_folder`).
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ConfigError

__all__ = ["Places", "claimed"]


class Places:
    """The folder, and what lies in it; made where it does not exist.

    Args:
        run_folder: of the run.

    Raises:
        ConfigError: it cannot be made.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.folder = run_folder / "rehearsal"
        self.settings = self.folder / "aggregator.toml"
        self.control = self.folder / "control"
        self.claims = self.folder / "claims"
        self.devices = self.folder / "devices"
        self.notes = self.folder / "notes"
        self.links = self.folder / "links"
        self.chaos = self.folder / "chaos.jsonl"

    def make(self) -> None:
        """Make every folder that is missing.

        Raises:
            ConfigError: one cannot be made.
        """
        try:
            for folder in (self.control, self.claims, self.devices, self.notes, self.links):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = "every part needs the same folder, writable: in containers, the same volume"
            raise ConfigError(f"cannot be made: {error.strerror}", where=str(self.folder), hint=hint) from error


@contextmanager
def claimed(folder: Path, names: Sequence[str]) -> Iterator[str]:
    """Be the first of these devices that nobody else is, until the context ends.

    Args:
        folder: of the claims; every process that may be one of these sees it.
        names: in the order in which they are taken.

    Raises:
        ConfigError: others are all of them.
    """
    for name in names:
        claim = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield name
            return
        finally:
            os.close(claim)
    hint = "raise its `count` in the scenario, or start fewer"
    raise ConfigError(f"all {len(names)} devices run already: {names[0]} to {names[-1]}", hint=hint)
