"""One line when the engine comes to stand still, with the cause and what it waits for, and one when it goes on.

Not here: the causes (`pausing.py`), what follows from them (`round_machine.py`).
"""

from collections.abc import Mapping
from types import MappingProxyType

import structlog

from aggregator.phases import PauseCause, Phase

__all__ = ["WAITS_FOR", "PauseLog"]

log = structlog.get_logger(__name__)

WAITS_FOR: Mapping[PauseCause, str] = MappingProxyType(
    {
        PauseCause.OPERATOR: "`python -m aggregator resume RUN.toml`",
        PauseCause.ERROR: "`python -m aggregator resume RUN.toml` once the cause is mended; with --void it goes on "
        "without the updates that led to it; if you mended code of your own, end the aggregator and start it again",
        PauseCause.DISK: "room on the disk of the run's folder; it looks by itself",
        PauseCause.BROKER: "the broker; it knocks by itself",
    }
)
"""What ends each cause."""


class PauseLog:
    """Looks at the causes after each step of the engine."""

    def __init__(self) -> None:
        self._told: dict[PauseCause, str] = {}
        self._since = 0.0

    def look(self, causes: Mapping[PauseCause, str], phase: Phase, now: float) -> None:
        """Say what has changed since the last look.

        Args:
            causes: for which the engine stands still, and the detail of each.
            phase: of the engine.
            now: seconds.
        """
        if causes.keys() == self._told.keys():
            return
        if causes:
            self._since = self._since if self._told else now
            log.warning(
                "paused",
                causes={str(cause): detail for cause, detail in causes.items()},
                waits_for=[WAITS_FOR[cause] for cause in causes],
                so="no work is given out; devices keep their reports and offer them again",
            )
        elif phase is not Phase.FINISHED:
            log.info("goes_on", phase=str(phase), paused_s=round(now - self._since, 1))
        self._told = dict(causes)
