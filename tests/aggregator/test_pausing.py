"""A set of causes, and what was held back."""

from aggregator.events import PauseAsked, StopAsked
from aggregator.pausing import BROKER_GONE_S, Pausing
from aggregator.phases import PauseCause, Phase


def test_pause_ends_with_its_last_cause() -> None:
    """Clearing what is not there does no harm."""
    pausing = Pausing()
    pausing.begin(Phase.REPORTING, 5.0)
    pausing.causes = {PauseCause.OPERATOR: "by hand", PauseCause.DISK: "full"}
    assert not pausing.clear(frozenset({PauseCause.OPERATOR, PauseCause.ERROR}))
    assert pausing.clear(frozenset({PauseCause.DISK}))
    assert (pausing.resume_to, pausing.since) == (Phase.REPORTING, 5.0)


def test_broker_counts_as_gone_a_minute_after_the_first_loss() -> None:
    """Attempts that fail meanwhile do not begin the minute anew; its return does."""
    pausing = Pausing()
    instants = []
    pausing.broker_lost(10.0)
    pausing.broker_lost(50.0)
    instants.append(pausing.broker_gone_at)
    pausing.causes[PauseCause.BROKER] = "gone"
    instants.append(pausing.broker_gone_at)  # it is a cause already
    pausing.broker_found()
    pausing.clear(frozenset({PauseCause.BROKER}))
    instants.append(pausing.broker_gone_at)
    assert instants == [10.0 + BROKER_GONE_S, None, None]


def test_what_was_held_back_is_released_once_in_order() -> None:
    """Verdicts that came in a pause are taken afterwards, each once."""
    pausing = Pausing()
    pausing.hold_back(PauseAsked())
    pausing.hold_back(StopAsked())
    assert pausing.released() == [PauseAsked(), StopAsked()]
    assert pausing.released() == []
