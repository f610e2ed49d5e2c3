"""The engine in random schedules: devices, broker, disk and operator do what they like, the journal lags, all may die.

What is held against the invariants is the durable journal: what was told to a device is in it, and what it says twice
would be counted twice.
"""

from random import Random
from typing import Any

import pytest

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator import records as rec
from aggregator.config import Settings
from aggregator.phases import PauseCause, Phase
from aggregator.recovery import recover
from shared.errors import Reason
from shared.messages import Kind, Outcome
from tests.aggregator.builders import DIGEST, a_machine, a_verdict, some_settings
from tests.aggregator.engine_invariants import books, check_candidates, check_journal

DEVICES = [f"d{i}" for i in range(12)]
N_EVENTS = 3000


class World:
    """A machine, a journal that may lag, and everybody around them.

    Args:
        seed: of everything that happens.
        settings: of the run.
        is_lagging: whether rows wait before they are durable, and the aggregator is killed now and then.
    """

    def __init__(self, seed: int, settings: Settings, *, is_lagging: bool) -> None:
        self.rng, self.settings, self.is_lagging = Random(seed), settings, is_lagging
        self.now = 0.0
        self.durable: list[rec.Record] = []
        self.waiting: list[cmd.Journal | cmd.Assign | cmd.SendReceipt] = []
        self.told: dict[str, Outcome] = {}  # lease -> final outcome that its device knows
        self.held: dict[str, set[str]] = {device: set() for device in DEVICES}
        self.taken: list[str] = []  # uploads on their way
        self.making: cmd.Aggregate | None = None
        self.publishing: int | None = None
        self.n_lives = 0
        self.snapshots: dict[int, Any] = {}
        self.earlier: list[ev.Event] = []
        self.is_ended = False
        self.begin_life()

    # the aggregator's shell

    def begin_life(self) -> None:
        """Start it, for the first time or again: what was not durable is gone."""
        self.n_lives += 1
        self.waiting.clear()
        self.taken.clear()
        self.making = self.publishing = None
        self.machine = a_machine(self.settings, prefix=f"life-{self.n_lives}")
        recover(self.machine, self.durable, None, self.now, 0.0)
        self.machine.check()
        self.take(self.machine.start(self.now))
        if not self.machine.tally.is_closed:
            self.publishing = self.machine.version  # every connection says so
        self.snapshot()

    def tell(self, event: ev.Event) -> None:
        """Hand an event to the machine, carry its commands out, hold the cheap invariants."""
        self.take(self.machine.handle(event, self.now))
        self.machine.tally.check()
        assert self.machine.deadline is None or not self.machine.is_finished
        self.snapshot()
        if not self.is_lagging:
            self.make_durable(len(self.waiting))

    def snapshot(self) -> None:
        """Remember what the books say once every row decided so far is durable."""
        n_rows = len(self.durable) + sum(isinstance(each, cmd.Journal) for each in self.waiting)
        self.snapshots[n_rows] = books(self.machine)

    def take(self, commands: list[cmd.Command]) -> None:
        """Carry out commands, or let them wait for their row, or for every row before them."""
        for command in commands:
            match command:
                case cmd.Journal() | cmd.Assign():
                    self.waiting.append(command)
                case cmd.SendReceipt(outcome=outcome) if outcome.is_final:
                    self.waiting.append(command)
                case _:
                    self.execute((command,))

    def execute(self, commands: tuple[cmd.Command, ...]) -> None:
        """Carry out commands whose rows are durable."""
        for command in commands:
            match command:
                case cmd.Assign(lease=lease, device=device):
                    assert any(isinstance(row, rec.LeaseRecord) and row.lease == lease for row in self.durable)
                    self.held[device].add(lease)
                case cmd.SendReceipt(lease=lease, outcome=outcome) if outcome.is_final:
                    self.hear(lease, outcome)
                case cmd.Cancel(lease=lease):
                    self.hear(lease, Outcome.CANCELLED)
                case cmd.TakeUpload(lease=lease):
                    self.taken.append(lease)
                case cmd.Aggregate():
                    assert self.making is None
                    self.making = command
                case cmd.PublishModel(version=version):
                    self.publishing = version
                case cmd.Finish():
                    self.is_ended = True
                case _:
                    pass

    def hear(self, lease: str, outcome: Outcome) -> None:
        """A device learns a final outcome: it is durable, and it is the one it learnt before, if it did."""
        assert self.told.setdefault(lease, outcome) == outcome
        assert lease in {row.lease for row in self.durable if isinstance(row, rec.AcceptRecord | rec.OutcomeRecord)}
        for holds in self.held.values():
            holds.discard(lease)

    def make_durable(self, n: int) -> None:
        """The journal catches up by so many rows."""
        for _ in range(min(n, len(self.waiting))):
            each = self.waiting.pop(0)
            if isinstance(each, cmd.Journal):
                self.durable.append(each.record)
            self.execute(each.then if isinstance(each, cmd.Journal) else (each,))

    # everybody else

    def step(self) -> None:
        """One thing happens."""
        rng = self.rng
        device = rng.choice(DEVICES)
        leases = sorted(self.held[device])
        lease = rng.choice(leases) if leases else None
        what = rng.random()
        if what < 0.25:
            holds = frozenset(leases) if rng.random() < 0.9 else frozenset[str]()  # a card that was exchanged
            self.held[device] &= holds
            self.device_says(ev.CheckedIn(device=device, holds=holds))
        elif what < 0.27:
            self.device_says(ev.DeviceOffline(device=device))
        elif what < 0.29:
            self.device_says(ev.CheckedIn(device=device, refusal=Reason.NOT_ELIGIBLE, holds=frozenset(leases)))
        elif what < 0.60 and lease is not None:
            self.device_works(device, lease)
        elif what < 0.75 and self.taken:
            self.upload_ends(self.taken.pop(rng.randrange(len(self.taken))))
        elif what < 0.80 and self.earlier:
            self.tell(rng.choice(self.earlier))  # a duplicate, however late
        elif what < 0.90:
            self.aggregator_works()
        elif what < 0.96:
            self.pass_time(rng.choice([0.1, 1.0, 5.0, 30.0]))
        elif what < 0.985:
            self.trouble()
        elif self.is_lagging and rng.random() < 0.3:
            self.begin_life()
        if self.is_lagging and rng.random() < 0.5:
            self.make_durable(rng.randrange(4))

    def device_says(self, event: ev.Event) -> None:
        """Deliver what a device says; it may be delivered again later, when the device knows better."""
        if not isinstance(event, ev.CheckedIn):
            self.earlier.append(event)
            del self.earlier[:-30]
        self.tell(event)

    def device_works(self, device: str, lease: str) -> None:
        """A device says something about a lease it holds, which the aggregator knows to be its own."""
        record = self.machine.leases[lease].record
        what = self.rng.random()
        if what < 0.15:
            self.device_says(ev.Progressed(device=device, lease=lease))
        elif what < 0.25:
            self.device_says(ev.Failed(device=device, lease=lease, reason=Reason.TRAINING))
        elif record.kind is Kind.EVALUATE:
            metrics = (("accuracy", (1.0, 2.0)),)
            self.device_says(ev.Evaluated(device=device, lease=lease, num_examples=2, metrics=metrics))
        else:
            self.device_says(ev.Offered(device=device, lease=lease))

    def upload_ends(self, lease: str) -> None:
        """An update is whole, sound or not."""
        sound = self.rng.random() < 0.9
        self.tell(
            a_verdict(lease, self.rng.randrange(1, 100)) if sound else ev.Refused(lease=lease, reason=Reason.DIGEST)
        )

    def aggregator_works(self) -> None:
        """A version is made or fails; a version is published."""
        if self.making is not None:
            making, self.making = self.making, None
            if self.rng.random() < 0.1:
                self.tell(ev.AggregationFailed(detail="not finite"))
            else:
                metrics = (("accuracy", round(self.rng.random(), 3)),)
                self.tell(ev.VersionWritten(version=making.into, digest=DIGEST, metrics=metrics))
        elif self.publishing is not None:
            version, self.publishing = self.publishing, None
            self.tell(ev.Published(version=version))

    def pass_time(self, seconds: float) -> None:
        """Let time pass; the machine is told of its deadlines, and never asks for the same again."""
        end = self.now + seconds
        for _ in range(1000):
            deadline = self.machine.deadline
            if deadline is None or deadline > end:
                self.now = end
                return
            self.now = max(self.now, deadline)
            self.tell(ev.DeadlinePassed())
        raise AssertionError("the machine asks for deadlines without end")

    def trouble(self) -> None:
        """Broker, disk and operator."""
        events: list[ev.Event] = [
            ev.PauseAsked(),
            ev.ResumeAsked(),
            ev.ResumeAsked(),
            ev.ResumeAsked(void=self.rng.random() < 0.3),
            ev.DiskLow(),
            ev.DiskFree(),
            ev.DiskFree(),
            ev.BrokerLost(),
            ev.BrokerFound(),
            ev.BrokerFound(),
        ]
        self.tell(self.rng.choice(events))

    def calm_down(self) -> None:
        """All troubles end, no device says anything more, the aggregator does what it has begun."""
        for event in (ev.BrokerFound(), ev.DiskFree(), ev.ResumeAsked()):
            self.tell(event)
        for _ in range(5000):
            self.make_durable(len(self.waiting))
            if self.making is not None:
                making, self.making = self.making, None
                self.tell(ev.VersionWritten(version=making.into, digest=DIGEST))
            elif self.publishing is not None:
                version, self.publishing = self.publishing, None
                self.tell(ev.Published(version=version))
            elif not self.waiting:
                deadline = self.machine.deadline
                if deadline is None:
                    return
                self.now = max(self.now, deadline)
                self.tell(ev.DeadlinePassed())
        raise AssertionError("it goes on for ever without a device")


def a_world(seed: int, *, is_lagging: bool) -> World:
    """Return a world with knobs of its own: every mode, each with and without a journal that lags."""
    rng = Random(f"knobs/{seed}")
    goal = rng.randrange(1, 7)
    over_selection: dict[str, Any] = {"over_selection": rng.choice([1.0, 1.5])}
    outstanding: dict[str, Any] = {"over_selection": None, "outstanding": rng.randrange(1, 9)}
    mode = (
        {"mode": "sync", **over_selection},
        {"mode": "async", **outstanding, "max_staleness": rng.choice([1, 3, 50])},
        {"mode": "semi-sync", **over_selection},
        {"mode": "sync", **outstanding, "max_staleness": rng.randrange(3)},  # between them
    )[seed // 2 % 4]
    settings = some_settings(
        round={
            **mode,
            "report_goal": goal,
            "quorum": rng.choice([0.3, 0.75, 1.0]),
            "window_s": {"min": 5, "max": rng.choice([20, 100])},
            "extensions": rng.randrange(3),
            "lease_s": rng.choice([None, 7.0]),
        },
        evaluation={
            "federated_every": rng.choice([0, 1, 2]),
            "at_end": rng.random() < 0.3,
            "window_s": 20,
            "devices": 3,
        },
        stop={"rounds": 30},
        transfer={"check_in_interval_s": 60},
    )
    return World(seed, settings, is_lagging=is_lagging)


@pytest.mark.parametrize("seed", range(14))
def test_random_schedules_keep_the_invariants(seed: int) -> None:
    """3,000 events: the books balance, nothing counts twice, every version has its quorum, and it comes to rest."""
    world = a_world(seed, is_lagging=bool(seed % 2))
    for i in range(N_EVENTS):
        world.step()
        if i % 50 == 0:
            world.machine.check()
            check_candidates(world.machine, world.now)
    world.calm_down()
    world.machine.check()
    assert world.machine.phase in (Phase.WAITING, Phase.FINISHED)
    check_journal(world.durable, world.settings)
    assert world.machine.version == sum(isinstance(row, rec.CommitRecord) for row in world.durable)
    assert world.machine.version > 2  # it was no idle world
    if world.machine.is_finished:
        assert world.is_ended
        assert isinstance(world.durable[-1], rec.FinishRecord)


@pytest.mark.parametrize("seed", range(0, 12, 2))
def test_every_prefix_of_a_journal_gives_the_same_books(seed: int) -> None:
    """Killed after any row, a restart finds tally, leases, version and stopping as they were decided."""
    world = a_world(seed, is_lagging=False)
    for _ in range(N_EVENTS // 8):
        world.step()
    n_compared = 0
    for n in range(len(world.durable) + 1):
        machine = a_machine(world.settings, prefix=f"after-{n}")
        recover(machine, world.durable[:n], None, 0.0, 0.0)
        machine.check()
        if n in world.snapshots:  # a row after which everything decided until then is durable
            assert books(machine) == world.snapshots[n]
            n_compared += 1
        machine.start(0.0)
        machine.check()
        assert PauseCause.ERROR not in machine.pausing.causes
    assert n_compared > len(world.durable) / 4
