"""Files of updates that are done with, kept for the next ones: writing over a file costs a third of making one anew.

A spare's old bytes are never taken for new ones: whoever takes it writes its own head and an empty bitmap over the old
ones, and synchronises them, before anything else. Blocks: to be used in the lane DISK.

Not here: what is in the files (`part_files.py`).
"""

from pathlib import Path

__all__ = ["SpareFiles"]

SPARE_BYTES = 512 * 2**20
"""Kept at most; given back when the disk is low, and when the run has ended."""
MAX_SPARES = 128
_SUFFIX = ".spare"


class SpareFiles:
    """The spare files of a folder, those of an earlier life included.

    Args:
        folder: where they lie; nobody else names files like this there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spares = {path: path.stat().st_size for path in sorted(folder.glob(f"*{_SUFFIX}"))}

    @property
    def n_bytes(self) -> int:
        """Of all of them."""
        return sum(self._spares.values())

    def retire(self, path: Path) -> None:
        """Keep a file as a spare, or delete it when there are enough; nothing when it does not exist."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        if self.n_bytes + size > SPARE_BYTES or len(self._spares) >= MAX_SPARES:
            path.unlink()
            return
        spare = path.with_suffix(_SUFFIX)
        path.rename(spare)
        self._spares[spare] = size

    def take(self, path: Path) -> bool:
        """Give the newest spare this name; return whether there was one."""
        while self._spares:
            spare, _ = self._spares.popitem()
            try:
                spare.rename(path)
            except FileNotFoundError:  # somebody tidied up
                continue
            return True
        return False

    def give_back(self) -> int:
        """Delete all of them; return how many bytes the disk has again."""
        freed = 0
        while self._spares:
            spare, size = self._spares.popitem()
            spare.unlink(missing_ok=True)
            freed += size
        return freed
