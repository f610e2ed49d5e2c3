"""The phases of a round and how the engine may move between them. One table; the docs' diagram is made from it."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

__all__ = ["PHASES", "EndCause", "PauseCause", "Phase"]


class Phase(StrEnum):
    """Where the engine is."""

    WAITING = "waiting"  # for devices
    REPORTING = "reporting"
    AGGREGATING = "aggregating"
    PAUSED = "paused"
    FINISHED = "finished"


PHASES: Mapping[Phase, frozenset[Phase]] = MappingProxyType(
    {
        Phase.WAITING: frozenset({Phase.REPORTING, Phase.AGGREGATING, Phase.PAUSED, Phase.FINISHED}),
        Phase.REPORTING: frozenset({Phase.WAITING, Phase.AGGREGATING, Phase.PAUSED, Phase.FINISHED}),
        Phase.AGGREGATING: frozenset({Phase.WAITING, Phase.PAUSED, Phase.FINISHED}),
        Phase.PAUSED: frozenset({Phase.WAITING, Phase.REPORTING, Phase.AGGREGATING, Phase.FINISHED}),
        Phase.FINISHED: frozenset(),
    }
)
"""Legal transitions; anything else raises `InvalidState`."""


class EndCause(StrEnum):
    """Why a round ended: the first four commit, the others abandon it."""

    GOAL = "goal"  # enough reports
    DEADLINE = "deadline"  # the window was over, and the quorum there
    EXTENSION = "extension"  # so it was, but only once the window had grown
    NOBODY_LEFT = "nobody_left"  # the quorum was there, and nobody to wait for or to ask
    NO_QUORUM = "no_quorum"
    VOIDED = "voided"  # the operator threw its updates away


class PauseCause(StrEnum):
    """Why nothing is given out. Disk and broker clear themselves, operator and error by `resume`."""

    OPERATOR = "operator"
    ERROR = "error"
    DISK = "disk"
    BROKER = "broker"
