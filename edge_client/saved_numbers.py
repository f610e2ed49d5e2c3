"""A number that outlives its process: how large a chunk this link can take, which epoch was the highest.

What cannot be read is named and counts as nothing known: the network tells it again.

Not here: what follows from them (`upload.py`, `presence.py`).
"""

from pathlib import Path

import structlog

from edge_client.state_folder import write_durably

__all__ = ["SavedNumber"]


class SavedNumber:
    """One whole number in one file. Both methods touch the disk.

    Args:
        path: of the file.
        least: the smallest that makes sense.
    """

    def __init__(self, path: Path, *, least: int) -> None:
        self._path, self._least = path, least
        self._log = structlog.get_logger()

    def read(self) -> int | None:
        """Return the number; None: nothing known."""
        if not self._path.exists():
            return None
        try:
            text = self._path.read_text().strip()
            number = int(text) if text else None
            if number is not None and number < self._least:
                raise ValueError(f"{number} is below {self._least}")
        except (OSError, ValueError) as error:
            self._log.warning("saved_number_damaged", file=str(self._path), cause=str(error), so="it is learned anew")
            return None
        return number

    def write(self, number: int | None) -> None:
        """Keep a number; what cannot be kept is named in the log."""
        try:
            write_durably(self._path, str("" if number is None else number).encode())
        except OSError as error:
            self._log.warning("saved_number_not_kept", file=str(self._path), cause=str(error))
