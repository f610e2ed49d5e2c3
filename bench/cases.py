"""What is measured: how many devices, how large a model.

Pure. Not here: measuring.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from shared.errors import ConfigError

__all__ = ["GRID", "MIB", "Case"]

MIB: Final = 2**20
_UNITS: Final = {"KiB": 2**10, "MiB": MIB}
_CASE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})(KiB|MiB)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the grid.

    Args:
        n_devices: that take part in every round.
        model_bytes: of float32 parameters, a multiple of 4; the update is as large.
    """

    n_devices: int
    model_bytes: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a case as `str` writes it, "10x1MiB".

        Raises:
            ConfigError: it is not of that form.
        """
        match = _CASE.fullmatch(text.strip())
        if match is None:
            raise ConfigError(
                f"case {text!r}: not of the form DEVICESxSIZE",
                hint="for example 10x1MiB or 2x64KiB; several with commas",
            )
        return cls(n_devices=int(match[1]), model_bytes=int(match[2]) * _UNITS[match[3]])

    @property
    def n_params(self) -> int:
        """Parameters of the model."""
        return self.model_bytes // 4

    @property
    def moved_bytes(self) -> int:
        """Payload of one round: the model down to every device, and an update up from each."""
        return 2 * self.n_devices * self.model_bytes

    def __str__(self) -> str:
        unit = "KiB" if self.model_bytes % MIB else "MiB"
        return f"{self.n_devices}x{self.model_bytes // _UNITS[unit]}{unit}"


GRID: Final = tuple(map(Case.parse, ("10x1MiB", "50x1MiB", "100x1MiB", "10x10MiB", "50x10MiB", "10x100MiB")))
"""What is measured unless told otherwise. The three of 1 MiB show how memory depends on the number of devices."""
