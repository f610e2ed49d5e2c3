"""A number that outlives its process: how large a chunk this link can take, which epoch was the highest.

What cannot be read is named and counts as nothing known: the network tells it again.

Not here: what follows from them (`upload.py`, `presence.py`).
"""

import structlog

from edge_client.files import Files

__all__ = ["SavedNumber"]


class SavedNumber:
    """One whole number in one file. Both methods touch the disk.

    Args:
        files: where it lies.
        name: of the file.
        least: the smallest that makes sense.
    """

    def __init__(self, files: Files, name: str, *, least: int) -> None:
        self._files, self._name, self._least = files, name, least
        self._log = structlog.get_logger()

    def read(self) -> int | None:
        """Return the number; None: nothing known."""
        if not self._files.has(self._name):
            return None
        try:
            text = self._files.read(self._name).decode().strip()
            number = int(text) if text else None
            if number is not None and number < self._least:
                raise ValueError(f"{number} is below {self._least}")
        except (OSError, ValueError) as error:
            self._log.warning(
                "saved_number_damaged",
                file=str(self._files.path / self._name),
                cause=str(error),
                so="it is learned anew",
            )
            return None
        return number

    def write(self, number: int | None) -> None:
        """Keep a number; what cannot be kept is named in the log."""
        try:
            self._files.write_durably(self._name, str("" if number is None else number).encode())
        except OSError as error:
            self._log.warning("saved_number_not_kept", file=str(self._files.path / self._name), cause=str(error))
