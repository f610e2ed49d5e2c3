"""Short ways to say what a test of the device needs."""

from collections.abc import Callable
from random import Random

from edge_client import events
from edge_client.config import TimerSettings
from edge_client.events import Command, Event, HeldReport, Settle
from edge_client.participant_machine import ParticipantMachine
from edge_client.phases import Phase
from shared.errors import Reason
from shared.messages import (
    Action,
    Assignment,
    Control,
    Fleet,
    Kind,
    ModelRef,
    Outcome,
    Receipt,
    RetryWindow,
    Round,
    RoundState,
    WorkOrder,
)

__all__ = [
    "EPOCH",
    "PHASES",
    "RUN",
    "TIMERS",
    "Driven",
    "a_control",
    "a_fleet",
    "a_held_report",
    "a_machine",
    "a_model",
    "a_receipt",
    "a_round",
    "an_order",
    "connected",
    "fetching",
    "lease",
    "of_kind",
    "reporting",
    "settled",
    "training",
]

RUN = "run-1"
EPOCH = 1000
TIMERS = TimerSettings()


def lease(number: int) -> str:
    """Return the lease of that number."""
    return f"{number:032x}"


def a_model(version: int = 0) -> ModelRef:
    """Return a model of one index piece."""
    return ModelRef(version=version, digest=f"{version + 1:064x}", index_bytes=100, chunk_bytes=4096)


def an_order(
    number: int = 1, *, version: int = 0, run: str = RUN, epoch: int = EPOCH, kind: Kind = Kind.TRAIN
) -> Assignment:
    """Return an assignment under the lease of that number."""
    return Assignment(
        epoch=epoch,
        lease=lease(number),
        run=run,
        round=version + 1,
        kind=kind,
        model=a_model(version),
        work=WorkOrder(seed=1, algorithm="fedavg", epochs=1, learning_rate=0.1) if kind is Kind.TRAIN else None,
        codec="float32",
        codec_seed=0,
        max_bytes=10**6,
        seconds_left=600.0,
        status_every_s=10.0,
    )


def a_fleet(*, run: str = RUN, epoch: int = EPOCH, window_s: float = 10.0) -> Fleet:
    """Return the limits of a fleet."""
    return Fleet(
        epoch=epoch,
        run=run,
        chunk_bytes=4096,
        inline_bytes=1024,
        check_in_interval_s=30.0,
        reconnect_window_s=window_s,
        codecs=["float32"],
    )


def a_round(state: RoundState = RoundState.OPEN, *, run: str = RUN, epoch: int = EPOCH) -> Round:
    """Return a manifest."""
    return Round(epoch=epoch, run=run, round=1, state=state, model=a_model(), report_goal=2)


def a_receipt(
    number: int = 1,
    outcome: Outcome = Outcome.ACCEPTED,
    *,
    need: tuple[tuple[int, int], ...] = (),
    retry_s: RetryWindow | None = None,
    epoch: int = EPOCH,
) -> Receipt:
    """Return what became of the lease of that number."""
    return Receipt(epoch=epoch, lease=lease(number), run=RUN, outcome=outcome, need=list(need), retry_s=retry_s)


def a_control(
    action: Action,
    *,
    number: int | None = None,
    reason: Reason | None = None,
    retry_s: RetryWindow | None = None,
    epoch: int = EPOCH,
) -> Control:
    """Return a control message."""
    return Control(
        epoch=epoch, action=action, lease=None if number is None else lease(number), reason=reason, retry_s=retry_s
    )


def a_held_report(number: int = 1, *, run: str = RUN) -> HeldReport:
    """Return a report that is in the outbox."""
    return HeldReport(lease=lease(number), run=run, round=1, version=0)


def a_machine(*held: HeldReport, finals: tuple[str, ...] = (), seed: int = 1) -> ParticipantMachine:
    """Return a machine that has not connected yet."""
    return ParticipantMachine(boot="boot", spec="5" * 64, timers=TIMERS, rng=Random(seed), held=held, finals=finals)


def settled(commands: list[Command]) -> list[tuple[str, Outcome]]:
    """Return the leases that these commands settle, and how."""
    return [(command.lease, command.outcome) for command in commands if isinstance(command, Settle)]


def of_kind(commands: list[Command]) -> list[str]:
    """Return the commands by name, but for the status, which goes with every change."""
    names = [type(command).__name__ for command in commands]
    return [name for name in names if name != "SendStatus"]


class Driven:
    """A machine that is driven into a phase.

    Args:
        machine: which one.
    """

    def __init__(self, machine: ParticipantMachine) -> None:
        self.machine = machine
        self.now = 0.0

    def __call__(self, *happened: Event, after_s: float = 0.0) -> list[Command]:
        """Let time pass, tell the machine, and return the commands of the last event."""
        self.now += after_s
        commands: list[Command] = []
        for event in happened:
            commands = self.machine.handle(event, self.now)
        return commands

    @property
    def phase(self) -> Phase:
        """Of the machine."""
        return self.machine.phase


def connected() -> Driven:
    """An idle device on a link, that knows its fleet."""
    driven = Driven(a_machine())
    driven(events.Connected(1), events.FleetSeen(a_fleet(), retained=True), events.RoundSeen(a_round(), retained=True))
    return driven


def fetching() -> Driven:
    """It fetches the model of lease 1."""
    driven = connected()
    driven(events.AssignmentArrived(an_order(1)))
    return driven


def training() -> Driven:
    """It trains under lease 1."""
    driven = fetching()
    driven(events.ModelFetched(lease(1)))
    return driven


def reporting() -> Driven:
    """Its report under lease 1 is offered."""
    driven = training()
    driven(events.ReportStored(lease(1)))
    return driven


PHASES: dict[Phase, Callable[[], Driven]] = {
    Phase.IDLE: connected,
    Phase.FETCHING: fetching,
    Phase.TRAINING: training,
    Phase.REPORTING: reporting,
}
