"""Updates of an open round as rows of a nameless file: they cost disk, not memory, and are gone with the process.

After a crash the round is folded again from what was accepted, so that nothing here has to be durable. Blocks: to be
used off the event loop.

Not here: what the rows are for (`rules/cohort.py`).
"""

import tempfile
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aggregator.rules.rule import Blocks, in_order
from shared.errors import InvalidState

__all__ = ["UpdateRows"]

VALUE_BYTES = 4


class UpdateRows:
    """See `rules.cohort.Rows`. Rows that were taken back are written over.

    Args:
        folder: on whose disk they lie.
        n_params: of each.
    """

    def __init__(self, folder: Path, n_params: int) -> None:
        self.n_rows = 0
        self._n_params = n_params
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by `close`, or once nobody has the rows
        self._close = weakref.finalize(self, self._file.close)

    def append(self, blocks: Blocks, scale: float) -> None:
        """See `Rows`."""
        self._file.seek(self.n_rows * self._n_params * VALUE_BYTES)
        for _, block in in_order(blocks, self._n_params):
            # a tiny factor has few digits as float32
            row = block if scale == 1.0 else np.multiply(block, scale, dtype=np.float64)
            self._file.write(np.ascontiguousarray(row, dtype=np.float32).data)
        self.n_rows += 1

    def columns(self, start: int, stop: int) -> NDArray[np.float32]:
        """See `Rows`."""
        found = np.empty((self.n_rows, stop - start), dtype=np.float32)
        self._file.flush()
        for row in range(self.n_rows):
            self._file.seek((row * self._n_params + start) * VALUE_BYTES)
            if self._file.readinto(found[row].data) != (stop - start) * VALUE_BYTES:
                raise InvalidState(f"row {row} of the updates is shorter than it was written")
        return found

    def close(self) -> None:
        """See `Rows`."""
        self._close()
