"""Why the engine stands still, and what it held back meanwhile."""

from aggregator.events import Event, ResumeAsked
from aggregator.phases import PauseCause, Phase

__all__ = ["Pausing"]

BROKER_GONE_S = 60.0
"""A broker that is away for longer pauses the round: its devices cannot report."""


class Pausing:
    """A set of causes; the engine stands still while there is one."""

    def __init__(self) -> None:
        self.causes: dict[PauseCause, str] = {}
        self.resume_to = Phase.WAITING
        self.since = 0.0
        self.has_failed = False
        """Whether the version that was asked for could not be made: it has to be asked for again."""
        self._held_back: list[Event] = []
        self._broker_lost_at: float | None = None

    def begin(self, phase: Phase, now: float) -> None:
        """The engine stops in this phase."""
        self.resume_to, self.since = phase, now

    def clear(self, causes: frozenset[PauseCause]) -> bool:
        """Remove causes; return whether none is left."""
        for cause in causes:
            self.causes.pop(cause, None)
        return not self.causes

    def hold_back(self, event: Event) -> None:
        """Keep a verdict that came while paused."""
        self._held_back.append(event)

    def released(self) -> list[Event]:
        """Return what was held back, once."""
        events, self._held_back = self._held_back, []
        return events

    def objection(self, event: Event, phase: Phase) -> str | None:
        """Return why an operator's event would not do what it says in this phase, None if it does."""
        if not (isinstance(event, ResumeAsked) and event.void):
            return None
        if phase is not Phase.PAUSED:
            return "nothing was voided: only a paused run can throw updates away; pause it first"
        if self.resume_to is Phase.AGGREGATING and not self.has_failed:
            return (
                "nothing was voided and the run stays paused: the next version is being made or published, and cannot "
                "be called back; resume without --void"
            )
        return None

    def broker_lost(self, now: float) -> None:
        """The link broke; further losses before it is found do not count anew."""
        self._broker_lost_at = now if self._broker_lost_at is None else self._broker_lost_at

    def broker_found(self) -> None:
        """The link is back."""
        self._broker_lost_at = None

    @property
    def broker_gone_at(self) -> float | None:
        """When the missing broker becomes a cause; None: it is there, or already is one."""
        if self._broker_lost_at is None or PauseCause.BROKER in self.causes:
            return None
        return self._broker_lost_at + BROKER_GONE_S
