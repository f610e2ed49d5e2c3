"""The phases of a device and every legal transition between them, in one table.

A device works on one lease at a time. Anything that is not in the table raises `InvalidState`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from edge_client.events import HeldReport
from shared.errors import InvalidState
from shared.messages import Assignment

__all__ = ["TRANSITIONS", "LiveLease", "Phase", "check_transition"]

LEAST_STATUS_S = 1.0
"""Seconds between two status messages, at least."""


class Phase(StrEnum):
    """What the device works on."""

    IDLE = "idle"
    FETCHING = "fetching"
    TRAINING = "training"
    REPORTING = "reporting"


TRANSITIONS: Mapping[Phase, frozenset[Phase]] = MappingProxyType(
    {
        # an assignment; a held report is answered
        Phase.IDLE: frozenset({Phase.FETCHING, Phase.REPORTING}),
        # the model is there; final, or superseded
        Phase.FETCHING: frozenset({Phase.TRAINING, Phase.IDLE}),
        # the report is durable; final, or superseded
        Phase.TRAINING: frozenset({Phase.REPORTING, Phase.IDLE}),
        # final, or parked
        Phase.REPORTING: frozenset({Phase.IDLE}),
    }
)


@dataclass(slots=True, kw_only=True)
class LiveLease:
    """The lease that is worked on."""

    lease: str
    run: str
    round: int
    version: int
    status_every_s: float
    assignment: Assignment | None = None  # None: a report that was taken up again
    begun_at: float = 0.0
    """When the assignment arrived, in loop seconds."""
    offline_s: float = 0.0
    """Without a link since then, until the link came back last."""

    @classmethod
    def begin(cls, order: Assignment, most_status_s: float, now: float) -> "LiveLease":
        """Take an assignment at `now`; the status goes out at least every `most_status_s` seconds."""
        return cls(
            lease=order.lease,
            run=order.run,
            round=order.round,
            version=order.model.version,
            status_every_s=max(LEAST_STATUS_S, min(order.status_every_s, most_status_s)),
            assignment=order,
            begun_at=now,
        )

    @classmethod
    def resume(cls, report: HeldReport, status_every_s: float) -> "LiveLease":
        """Take up a report of the outbox again."""
        return cls(
            lease=report.lease,
            run=report.run,
            round=report.round,
            version=report.version,
            status_every_s=status_every_s,
        )


def check_transition(before: Phase, after: Phase) -> None:
    """Refuse what is not in the table.

    Raises:
        InvalidState: a device in `before` cannot go on to `after`.
    """
    if after not in TRANSITIONS[before]:
        raise InvalidState(f"a device that is {before} cannot go on to {after}")
