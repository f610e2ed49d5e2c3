from dataclasses import dataclass, field
from random import Random

import pytest

from edge_client import events
from edge_client.events import Command, Event, HeldReport
from edge_client.participant_machine import ParticipantMachine
from edge_client.phases import Phase
from shared.errors import Reason
from shared.messages import Action, Outcome, RetryWindow, RoundState
from tests.edge_client.builders import (
    EPOCH,
    RUN,
    TIMERS,
    a_control,
    a_fleet,
    a_model,
    a_receipt,
    a_round,
    an_order,
    lease,
)

N_SCHEDULES = 150
N_EVENTS = 200
SOME_FINALS = [outcome for outcome in Outcome if outcome.is_final]


@dataclass
class Shell:
    """A shell that obeys, drops and delays, and an aggregator that says anything; checks what must always hold."""

    rng: Random
    now: float = 0.0
    fetching: str | None = None
    training: str | None = None
    outbox: dict[str, HeldReport] = field(default_factory=dict)
    granted: set[str] = field(default_factory=set)
    said_final: set[str] = field(default_factory=set)
    ordered: dict[str, tuple[int, str]] = field(default_factory=dict)
    is_connected: bool = False
    is_over: bool = False
    n_connections: int = 0
    epoch: int = EPOCH

    def __post_init__(self) -> None:
        """Begin the first life."""
        self.finals: list[str] = []
        self.reboot()

    def reboot(self) -> None:
        """Begin a new life with what was on disk."""
        self.fetching = self.training = None
        self.granted.clear()
        self.is_connected = False
        self.machine = ParticipantMachine(
            boot="b", spec="0" * 64, timers=TIMERS, rng=self.rng, held=list(self.outbox.values()), finals=self.finals
        )

    def tell(self, event: Event) -> None:
        """Tell the machine, obey, and check."""
        over = isinstance(event, events.RoundSeen) and event.round.state is RoundState.FINISHED
        if over:
            self.is_over = True
        offers: list[str] = []
        for command in self.machine.handle(event, self.now):
            self._obey(command, offers)
        assert len(offers) == len(set(offers)), "a report is offered twice at once"
        self._check()

    def _obey(self, command: Command, offers: list[str]) -> None:
        match command:
            case events.FetchModel(order):
                assert self.is_connected
                assert self.training is None, "two live leases"
                self.fetching = order.lease
            case events.StopFetching(stopped):
                if self.fetching == stopped:
                    self.fetching = None
            case events.BeginTraining(order):
                assert self.training is None, "two trainings"
                assert order.lease not in self.outbox, "trained twice"
                self.fetching, self.training = None, order.lease
            case events.CancelTraining(cancelled):
                assert self.training == cancelled
                self.training = None
            case events.Offer(offered):
                assert self.is_connected, "an offer without a link"
                assert offered in self.outbox, "an offer of nothing"
                offers.append(offered)
            case events.GrantChunks(granted, _):
                assert granted in self.outbox
                self.granted.add(granted)
            case events.StopUpload(stopped):
                self.granted.discard(stopped)
            case events.Settle():
                is_thrown_away = command.reason is Reason.SUPERSEDED
                is_given_up = command.reason is Reason.RUN_FINISHED and self.is_over
                if command.lease in self.outbox:
                    assert command.lease in self.said_final or is_thrown_away or is_given_up, (
                        "deleted without an outcome"
                    )
                    del self.outbox[command.lease]
                self.finals = [*self.finals, command.lease][-64:]
            case events.SendCheckIn(message):
                assert self.is_connected
                named = {holding.lease for holding in message.holds}
                assert self.machine.lease is None or self.machine.lease in named, "a live lease is not named"
            case events.SendStatus() | events.FollowRun() | events.ExplainSpec():
                assert self.is_connected
            case events.StayAway() | events.Announce() | events.PutOff() | events.RunFinished():
                pass

    def _check(self) -> None:
        machine = self.machine
        assert (machine.phase is Phase.IDLE) == (machine.lease is None)
        assert {report.lease for report in machine.held} == self.outbox.keys()
        assert (self.training is not None) == (machine.phase is Phase.TRAINING)
        if machine.phase is Phase.REPORTING:
            assert machine.lease in self.outbox
        if machine.phase is Phase.IDLE and self.is_connected:
            assert machine.deadline is not None, "an idle device on a link would never speak again"

    # what may happen

    def step(self) -> None:
        """Let one thing happen."""
        self.now += self.rng.choice([0.0, 0.1, 1.0, 30.0, 400.0])
        choices = [self._deadline, self._local, self._network, self._network]
        if self.rng.random() < 0.02:
            self.reboot()
        elif self.rng.random() < 0.15:
            self._link()
        else:
            self.rng.choice(choices)()

    def _link(self) -> None:
        self.granted.clear()
        if self.is_connected:
            self.is_connected = False
            self.fetching = None
            self.tell(events.Disconnected(taken_over=self.rng.random() < 0.1))
        else:
            self.n_connections += 1
            self.is_connected = True
            self.tell(events.Connected(self.n_connections))

    def _deadline(self) -> None:
        deadline = self.machine.deadline
        if deadline is not None:
            self.now = max(self.now, deadline)
            self.tell(events.DeadlinePassed())
            after = self.machine.deadline
            assert after is None or after > self.now, "a deadline that does not go away would spin"

    def _local(self) -> None:
        if self.fetching is not None and self.rng.random() < 0.7:
            fetched, self.fetching = self.fetching, None
            self.tell(events.ModelFetched(fetched))
        elif self.fetching is not None:
            self.tell(events.ModelMissing(self.fetching, a_model().digest))
        elif self.training is not None:
            trained, self.training = self.training, None
            version, run = self.ordered[trained]
            self.outbox[trained] = HeldReport(lease=trained, run=run, round=version + 1, version=version)
            self.tell(events.ReportStored(trained))
        elif self.outbox and self.rng.random() < 0.02:
            lost = self.rng.choice(sorted(self.outbox))
            del self.outbox[lost]
            self.tell(events.ReportLost(lost))
        elif self.granted:
            self.tell(events.UploadDrained(self.granted.pop()))

    def _network(self) -> None:
        if not self.is_connected:
            return
        rng, number = self.rng, self.rng.randrange(1, 40)
        self.epoch += rng.random() < 0.02
        epoch = self.epoch - (rng.random() < 0.1)
        run = rng.choice([RUN, RUN, RUN, "run-2"])
        retry = rng.choice([None, RetryWindow(min=1, max=50)])
        match rng.randrange(8):
            case 0 | 1 | 2:
                version = number // 4
                self.ordered.setdefault(lease(number), (version, run))
                version, run = self.ordered[lease(number)]
                self.tell(events.AssignmentArrived(an_order(number, version=version, run=run, epoch=epoch)))
            case 3:
                number = self._some_lease(number)
                outcome = rng.choice(SOME_FINALS)
                self.said_final.add(lease(number))
                self.tell(events.ReceiptArrived(a_receipt(number, outcome, epoch=epoch)))
            case 4:
                number = self._some_lease(number)
                outcome = rng.choice([Outcome.NEED, Outcome.NEED, Outcome.BUSY])
                self.tell(events.ReceiptArrived(a_receipt(number, outcome, need=((0, 3),), retry_s=retry, epoch=epoch)))
            case 5:
                action = rng.choice(list(Action))
                reason = rng.choice([None, Reason.NOT_DRAWN, Reason.SPEC])
                if action is Action.CANCEL:
                    self.said_final.add(lease(number))
                self.tell(
                    events.ControlArrived(a_control(action, number=number, reason=reason, retry_s=retry, epoch=epoch))
                )
            case 6:
                self.tell(events.FleetSeen(a_fleet(run=run, epoch=epoch), retained=rng.random() < 0.5))
            case _:
                state = rng.choice([*RoundState, RoundState.OPEN, RoundState.OPEN])
                self.tell(events.RoundSeen(a_round(state, run=run, epoch=epoch), retained=rng.random() < 0.5))

    def _some_lease(self, number: int) -> int:
        return int(self.rng.choice(sorted(self.outbox)), 16) if self.outbox and self.rng.random() < 0.7 else number


@pytest.mark.parametrize("block", range(10))
def test_random_schedules_keep_the_invariants(block: int) -> None:
    """Whatever comes in whatever order: one live lease, no report deleted before a final outcome, never mute."""
    for seed in range(block * N_SCHEDULES // 10, (block + 1) * N_SCHEDULES // 10):
        shell = Shell(Random(seed))
        for _ in range(N_EVENTS):
            shell.step()


def test_schedules_reach_every_phase_and_outcome() -> None:
    """The random schedules are not idle: they train, report, park and settle."""
    phases: set[Phase] = set()
    n_settled = 0
    for seed in range(20):
        shell = Shell(Random(seed))
        for _ in range(N_EVENTS):
            shell.step()
            phases.add(shell.machine.phase)
        n_settled += len(shell.finals)
    assert phases == set(Phase)
    assert n_settled > 100
