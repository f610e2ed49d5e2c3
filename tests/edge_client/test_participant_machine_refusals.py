from edge_client import events
from edge_client.eligibility import Refusal
from edge_client.events import Command, SendCheckIn, SendStatus
from edge_client.presence import CLONED
from shared.errors import Reason
from shared.messages import Action, CheckIn, RetryWindow
from tests.edge_client.builders import (
    EPOCH,
    Driven,
    a_control,
    a_fleet,
    a_machine,
    a_round,
    connected,
    of_kind,
)

RETRY = RetryWindow(min=100, max=200)


def check_in_of(commands: list[Command]) -> CheckIn:
    """The one check-in among these commands."""
    (found,) = [command.message for command in commands if isinstance(command, SendCheckIn)]
    return found


def refusal_in(commands: list[Command]) -> Refusal | None:
    """The refusal in the last status among these commands."""
    return [command for command in commands if isinstance(command, SendStatus)][-1].refusal


def reason_in(commands: list[Command]) -> Reason | None:
    """Its reason."""
    refusal = refusal_in(commands)
    return refusal.reason if refusal else None


def test_taken_over_twice_within_a_minute_stays_away() -> None:
    """Two devices with one id: this one stops for four hours, more or less, and says so."""
    driven = connected()
    assert driven(events.Disconnected(taken_over=True)) == []
    driven(events.Connected(2), after_s=20)
    announce, stay_away = driven(events.Disconnected(taken_over=True), after_s=20)
    assert isinstance(announce, events.Announce)
    assert announce.reason is Reason.CLONED_ID
    assert isinstance(stay_away, events.StayAway)
    assert 0.8 * 14400 <= stay_away.seconds <= 1.2 * 14400
    assert reason_in(driven(events.Connected(3))) is Reason.CLONED_ID


def test_taken_over_rarely_is_no_clone() -> None:
    """A broker that takes an hour between two takeovers has seen reconnects, not a clone."""
    driven = connected()
    driven(events.Disconnected(taken_over=True))
    driven(events.Connected(2), after_s=61)
    assert driven(events.Disconnected(taken_over=True)) == []


def test_refused_spec_is_announced_and_explained_once() -> None:
    """The operator hears of it once, and the status says which parameter differs."""
    driven = connected()
    refusal = events.ControlArrived(a_control(Action.COME_BACK, reason=Reason.SPEC, retry_s=RETRY))
    assert of_kind(driven(refusal)) == ["Announce", "ExplainSpec"]
    assert of_kind(driven(refusal)) == []
    assert refusal_in(driven(events.SpecExplained("w float32[3]"))) == Refusal(Reason.SPEC, "w float32[3]")


def test_spec_is_explained_as_soon_as_the_manifest_is_there() -> None:
    """A refusal that comes before the manifest is explained when that comes, and again after a lost link."""
    driven = Driven(a_machine())
    driven(events.Connected(1), events.FleetSeen(a_fleet(), retained=True))
    refusal = events.ControlArrived(a_control(Action.COME_BACK, reason=Reason.SPEC, retry_s=RETRY))
    assert of_kind(driven(refusal)) == ["Announce"]
    assert of_kind(driven(events.RoundSeen(a_round(), retained=True))) == ["ExplainSpec"]
    driven(events.Disconnected(), events.Connected(2))
    assert of_kind(driven(events.RoundSeen(a_round(), retained=True))) == ["ExplainSpec"]


def test_another_run_lifts_the_refusal() -> None:
    """The next run may have this device's model: it checks in soon."""
    driven = connected()
    driven(events.ControlArrived(a_control(Action.COME_BACK, reason=Reason.SPEC, retry_s=RETRY)))
    driven(events.FleetSeen(a_fleet(run="run-2", epoch=EPOCH + 1)))
    assert driven.machine.deadline is not None
    assert driven.machine.deadline <= driven.now + 10
    assert reason_in(driven(events.Disconnected(), events.Connected(2))) is None


def test_clone_noticed_by_the_aggregator_leaves() -> None:
    """Each time it is told so, for as long as it is told."""
    driven = connected()
    cloned = events.ControlArrived(a_control(Action.COME_BACK, reason=Reason.CLONED_ID, retry_s=RETRY))
    announce, stay_away = (command for command in driven(cloned) if not isinstance(command, SendStatus))
    assert isinstance(announce, events.Announce)
    assert isinstance(stay_away, events.StayAway)
    assert announce.detail == stay_away.detail == CLONED
    driven(events.Disconnected(), events.Connected(2))
    (stay_away,) = [command for command in driven(cloned) if isinstance(command, events.StayAway)]
    assert 100 <= stay_away.seconds <= 200


def test_passing_answer_lifts_the_refusal() -> None:
    """Whoever is merely not drawn is welcome."""
    driven = connected()
    driven(events.ControlArrived(a_control(Action.UPGRADE, retry_s=RETRY)))
    passing = events.ControlArrived(a_control(Action.COME_BACK, reason=Reason.NOT_DRAWN, retry_s=RETRY))
    assert reason_in(driven(passing)) is None


def test_ineligible_device_says_why() -> None:
    """Check-in and status carry the device's own refusal."""
    driven = connected()
    commands = driven(events.EligibilityRead(Refusal(Reason.NOT_ELIGIBLE, "battery at 5 %"), {"battery": 0.05}, 123))
    check_in = check_in_of(commands)
    assert (check_in.refusal, check_in.detail) == (Reason.NOT_ELIGIBLE, "battery at 5 %")
    assert (check_in.conditions, check_in.memory_bytes) == ({"battery": 0.05}, 123)
    assert reason_in(commands) is Reason.NOT_ELIGIBLE
