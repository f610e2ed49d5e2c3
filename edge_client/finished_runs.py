"""Which runs are over, and from when on to believe it.

A manifest `finished` that comes live is believed at once. A retained one may be of the run before, whose successor is
just starting: it has a while to say otherwise.

Pure. Not here: what is still held of a run (`held_reports.py`).
"""

from collections.abc import Callable

__all__ = ["QUIET_S", "FinishedRuns"]

QUIET_S = 30.0
"""Seconds that a new aggregator has to contradict a retained manifest."""


class FinishedRuns:
    """Runs whose last manifest says `finished` and that nobody has been told of yet.

    Args:
        is_clear: whether nothing of a run is left here.
    """

    def __init__(self, is_clear: Callable[[str], bool]) -> None:
        self._is_clear = is_clear
        self._believe_at: dict[str, float] = {}

    @property
    def deadline(self) -> float | None:
        """When the next run is over; None: none, or something of it is still here."""
        if not self._believe_at:
            return None
        return min((at for run, at in self._believe_at.items() if self._is_clear(run)), default=None)

    def finished(self, run: str, now: float, *, retained: bool) -> None:
        """The manifest says so."""
        self._believe_at.setdefault(run, now + (QUIET_S if retained else 0.0))

    def goes_on(self, run: str) -> None:
        """The manifest says otherwise."""
        self._believe_at.pop(run, None)

    def over(self, now: float) -> list[str]:
        """Return the runs that are over by now, each once."""
        if not self._believe_at:
            return []
        found = [run for run, at in self._believe_at.items() if at <= now and self._is_clear(run)]
        for run in found:
            del self._believe_at[run]
        return found
