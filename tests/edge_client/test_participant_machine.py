from typing import TypeAlias, get_args

import pytest

from edge_client import events
from edge_client.eligibility import Refusal
from edge_client.events import Event
from edge_client.phases import TRANSITIONS, Phase
from shared.errors import InvalidState, Reason
from shared.messages import Action, Kind, Outcome, RetryWindow, RoundState
from tests.edge_client.builders import (
    PHASES,
    Driven,
    a_control,
    a_fleet,
    a_machine,
    a_model,
    a_receipt,
    a_round,
    an_order,
    lease,
    of_kind,
)

IDLE, FETCHING, TRAINING, REPORTING = Phase
RETRY = RetryWindow(min=100, max=200)
Row: TypeAlias = dict[Phase, tuple[Phase, list[str]]]

STAYS: Row = {phase: (phase, []) for phase in Phase}
"""The event changes no phase and asks for nothing but a status."""
ENDS: Row = {
    IDLE: (IDLE, ["Settle"]),
    FETCHING: (IDLE, ["StopFetching", "Settle", "SendCheckIn"]),
    TRAINING: (IDLE, ["CancelTraining", "Settle", "SendCheckIn"]),
    REPORTING: (IDLE, ["StopUpload", "Settle", "SendCheckIn"]),
}
"""The event is the end of lease 1."""
TAKEN_IF_IDLE: Row = {**STAYS, IDLE: (FETCHING, ["FetchModel"])}

# Every event in every phase, where busy means under lease 1: which phase follows, and what is done.
CASES: list[tuple[Event, Row]] = [
    (events.Disconnected(), STAYS),
    (events.FleetSeen(a_fleet()), STAYS),
    (
        events.FleetSeen(a_fleet(run="run-2")),
        {
            IDLE: (IDLE, ["FollowRun"]),
            FETCHING: (IDLE, ["FollowRun", "StopFetching"]),
            TRAINING: (TRAINING, ["FollowRun"]),
            REPORTING: (IDLE, ["FollowRun", "StopUpload", "SendCheckIn"]),
        },
    ),
    (events.RoundSeen(a_round()), STAYS),
    (events.RoundSeen(a_round(RoundState.PAUSED)), STAYS),
    (
        events.RoundSeen(a_round(RoundState.FINISHED)),
        {
            IDLE: (IDLE, ["RunFinished"]),
            FETCHING: (IDLE, ["StopFetching", "Settle", "SendCheckIn", "RunFinished"]),
            TRAINING: (IDLE, ["CancelTraining", "Settle", "SendCheckIn", "RunFinished"]),
            REPORTING: (REPORTING, ["Offer"]),
        },
    ),
    (events.AssignmentArrived(an_order(1)), TAKEN_IF_IDLE),
    (events.AssignmentArrived(an_order(2)), TAKEN_IF_IDLE),
    (events.AssignmentArrived(an_order(2, kind=Kind.EVALUATE)), TAKEN_IF_IDLE),
    (
        events.AssignmentArrived(an_order(2, version=1)),
        {
            IDLE: (FETCHING, ["FetchModel"]),
            FETCHING: (FETCHING, ["StopFetching", "FetchModel"]),
            TRAINING: (FETCHING, ["CancelTraining", "FetchModel"]),
            REPORTING: (FETCHING, ["StopUpload", "FetchModel"]),
        },
    ),
    *((events.ReceiptArrived(a_receipt(1, outcome)), ENDS) for outcome in Outcome if outcome.is_final),
    (
        events.ReceiptArrived(a_receipt(1, Outcome.NEED, need=((0, 3),))),
        {**STAYS, REPORTING: (REPORTING, ["GrantChunks"])},
    ),
    (events.ReceiptArrived(a_receipt(1, Outcome.BUSY)), {**STAYS, REPORTING: (REPORTING, ["PutOff"])}),
    (events.ControlArrived(a_control(Action.CANCEL, number=1, reason=Reason.COMMITTED)), ENDS),
    (events.ControlArrived(a_control(Action.CANCEL)), STAYS),
    (events.ControlArrived(a_control(Action.COME_BACK, reason=Reason.NOT_DRAWN, retry_s=RETRY)), STAYS),
    (
        events.ControlArrived(a_control(Action.COME_BACK, reason=Reason.SPEC, retry_s=RETRY)),
        {phase: (phase, ["Announce", "ExplainSpec"]) for phase in Phase},
    ),
    (events.ControlArrived(a_control(Action.UPGRADE)), {phase: (phase, ["Announce"]) for phase in Phase}),
    (events.EligibilityRead(None), STAYS),
    (
        events.EligibilityRead(Refusal(Reason.NOT_ELIGIBLE, "battery")),
        {phase: (phase, ["SendCheckIn"]) for phase in Phase},
    ),
    (events.ModelFetched(lease(2)), STAYS),
    (events.ModelMissing(lease(1), a_model().digest), {**STAYS, FETCHING: (FETCHING, ["SendCheckIn"])}),
    (events.ReportStored(lease(2)), {phase: (phase, ["Settle"]) for phase in Phase}),
    (events.ReportSent(lease(1)), STAYS),
    (events.ReportLost(lease(1)), {**STAYS, REPORTING: (IDLE, ["StopUpload", "SendCheckIn"])}),
    (events.UploadDrained(lease(1)), STAYS),
    (events.SpecExplained("w"), STAYS),
    (events.DeadlinePassed(), STAYS),
]
ILLEGAL: list[tuple[Event, list[Phase]]] = [
    (events.Connected(2), list(Phase)),
    (events.ModelFetched(lease(1)), [TRAINING, REPORTING]),
    (events.ReportStored(lease(1)), [FETCHING, REPORTING]),
]


@pytest.mark.parametrize(
    ("event", "before", "after", "commands"),
    [
        pytest.param(event, before, after, commands, id=f"{before}-{number}-{type(event).__name__}")
        for number, (event, row) in enumerate(CASES)
        for before, (after, commands) in row.items()
    ],
)
def test_event_in_phase_leads_on_and_commands(event: Event, before: Phase, after: Phase, commands: list[str]) -> None:
    """Every event in every phase leads to the phase of the table, with these commands."""
    driven = PHASES[before]()
    done = driven(event)
    assert (driven.phase, of_kind(done)) == (after, commands)
    # dropping work for newer work passes through idle within one event
    assert before is after or after in TRANSITIONS[before] | TRANSITIONS[IDLE]


@pytest.mark.parametrize(("event", "phase"), [(event, phase) for event, phases in ILLEGAL for phase in phases])
def test_impossible_event_raises_and_changes_nothing(event: Event, phase: Phase) -> None:
    """What our own shell cannot mean is loud, and the device goes on as before."""
    driven = PHASES[phase]()
    before = (driven.phase, driven.machine.lease, driven.machine.held, driven.machine.deadline)
    with pytest.raises(InvalidState):
        driven(event)
    assert (driven.phase, driven.machine.lease, driven.machine.held, driven.machine.deadline) == before


def test_loss_of_a_link_that_never_stood_is_refused() -> None:
    """A shell that reports a loss without a connection has a bug."""
    with pytest.raises(InvalidState):
        Driven(a_machine())(events.Disconnected())


def test_every_event_is_tried() -> None:
    """The tables above name every kind of event there is."""
    assert {type(event) for event, _ in [*CASES, *ILLEGAL]} == set(get_args(Event))
