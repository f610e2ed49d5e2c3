"""Short ways to say what a test of the aggregator needs."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator.config import Settings
from aggregator.leases import Lease
from aggregator.phases import Phase
from aggregator.records import AcceptRecord, LeaseRecord, Record
from aggregator.round_machine import RoundMachine
from shared.codecs import CODECS
from shared.errors import Reason
from shared.messages import Kind, Outcome, Report, Reported

__all__ = [
    "CHUNK_BYTES",
    "DIGEST",
    "INTERVAL_S",
    "RUN",
    "SIX",
    "WINDOW_S",
    "Engine",
    "a_lease",
    "a_machine",
    "a_report",
    "a_verdict",
    "an_accept",
    "an_offer",
    "commands_in",
    "lease_name",
    "receipts",
    "reporting",
    "rows",
    "some_settings",
]

RUN = "test"
DIGEST = "d" * 64
CHUNK_BYTES = 4096
WINDOW_S = 100.0
UPDATE_BYTES = {name: codec.encoded_bytes(250_000) for name, codec in CODECS.items()}
"""Of an update by its codec; 10^6 as float32."""
SIX = [f"d{i}" for i in range(6)]
INTERVAL_S = 1000.0
"""Check-in interval: so long that nobody is forgotten within a test, unless it is about that."""

C = TypeVar("C")


def some_settings(folder: Path | None = None, **tables: dict[str, Any]) -> Settings:
    """Return settings of a small run: goal 4, quorum 3, six invited; each keyword's keys go over ours.

    Args:
        folder: where runs lie.
        tables: sections of the TOML.
    """
    ours: dict[str, dict[str, Any]] = {
        "round": {
            "report_goal": 4,
            "over_selection": 1.5,
            "quorum": 0.75,
            "window_s": {"min": 10, "max": WINDOW_S},
            "extensions": 2,
        },
        "training": {"codec": "float32"},
        "stop": {"rounds": 100},
        "transfer": {"check_in_interval_s": INTERVAL_S, "chunk_bytes": CHUNK_BYTES, "inline_bytes": 1024},
        "output": {"folder": folder or Path("runs")},
    }
    together = {name: {**ours.get(name, {}), **tables.get(name, {})} for name in {**ours, **tables}}
    return Settings.model_validate({"task": "tests.integration.linear:LinearTask", "run": RUN, **together})


def a_machine(settings: Settings | None = None, *, prefix: str = "life-1") -> RoundMachine:
    """Return a new engine."""
    return RoundMachine(settings or some_settings(), update_bytes=UPDATE_BYTES, lease_prefix=prefix)


def lease_name(number: int) -> str:
    """Return the name of the lease of that number."""
    return f"{number:032x}"


def a_lease(number: int = 1, device: str = "d1", *, kind: Kind = Kind.TRAIN, base: int = 0) -> LeaseRecord:
    """Return the row that issues a lease."""
    return LeaseRecord(
        lease=lease_name(number),
        device=device,
        round_id=1,
        kind=kind,
        base_version=base,
        codec="float32",
        max_bytes=10**6,
    )


def an_accept(
    update: NDArray[np.float32] | None = None, *, number: int = 1, into: int = 1, weight: float = 1.0
) -> AcceptRecord:
    """Return the row of an update that came inline."""
    data = b"" if update is None else update.astype("<f4").tobytes()
    return AcceptRecord(
        seq=number,
        lease=lease_name(number),
        device=f"d{number}",
        round_id=into,
        base_version=into - 1,
        into=into,
        weight=weight,
        num_examples=1,
        n_steps=1,
        clip_scale=1.0,
        codec="float32",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        data=data,
    )


def a_report(update: bytes, lease: str = lease_name(1), **fields: Any) -> Report:
    """Return the Report of a small update; `fields` go over ours."""
    ours: dict[str, Any] = {
        "lease": lease,
        "run": RUN,
        "outcome": Reported.TRAINED,
        "codec": "float32",
        "num_examples": 10,
        "n_steps": 3,
        "size": len(update),
        "sha256": hashlib.sha256(update).hexdigest(),
        "data": update,
    }
    return Report(**{**ours, **fields})


def an_offer(update: bytes, lease: str = lease_name(1), *, chunk_bytes: int = CHUNK_BYTES, **fields: Any) -> Report:
    """Return the Report that offers a large update."""
    return a_report(update, lease, data=None, chunk_bytes=chunk_bytes, **fields)


def a_verdict(lease: str, num_examples: int = 10) -> ev.Verified:
    """Return the verdict on a sound update."""
    return ev.Verified(
        lease=lease, num_examples=num_examples, n_steps=1, codec="float32", size=4, sha256=DIGEST, data=bytes(4)
    )


def commands_in(commands: list[cmd.Command], kind: type[C]) -> list[C]:
    """Return the commands of one kind."""
    return [command for command in commands if isinstance(command, kind)]


class Engine:
    """A round machine whose journal is durable at once; every invariant is checked after every event.

    Args:
        settings: of the run.
        machine: instead of a new one.
    """

    def __init__(self, settings: Settings | None = None, machine: RoundMachine | None = None) -> None:
        self.machine = machine or a_machine(settings)
        self.now = 0.0
        self.records: list[Record] = []
        self.log: list[cmd.Command] = self._done(self.machine.start(self.now))

    def __call__(self, *happened: ev.Event, after_s: float = 0.0) -> list[cmd.Command]:
        """Let time pass, tell the machine, and return all commands; those behind a row follow it."""
        self.now += after_s
        commands: list[cmd.Command] = []
        for event in happened:
            commands += self._done(self.machine.handle(event, self.now))
            self.machine.check()
        self.log += commands
        return commands

    def check_in(self, *devices: str) -> list[cmd.Command]:
        """Let idle devices check in."""
        return self(*(ev.CheckedIn(device=device) for device in devices))

    def until_deadline(self) -> list[cmd.Command]:
        """Let time pass until the machine's own deadline, and tell it."""
        assert self.machine.deadline is not None
        return self(ev.DeadlinePassed(), after_s=max(0.0, self.machine.deadline - self.now))

    def pass_s(self, seconds: float) -> list[cmd.Command]:
        """Let that much time pass; every deadline on the way is told."""
        end, commands = self.now + seconds, []
        while (deadline := self.machine.deadline) is not None and deadline <= end:
            assert deadline >= self.now
            commands += self.until_deadline()
        self.now = end
        return commands

    def lease_of(self, device: str) -> str:
        """Return the live lease of a device."""
        lease = self.machine.leases.live_of(device)
        assert lease is not None, f"{device} has none"
        return lease.record.lease

    def leased(self) -> list[str]:
        """Return the devices with a live train lease, in order."""
        return sorted(lease.record.device for lease in self._live())

    def report(self, *devices: str, num_examples: int = 10) -> list[cmd.Command]:
        """Let devices report sound updates under their live leases."""
        return self(*(a_verdict(self.lease_of(device), num_examples) for device in devices))

    def work_on(self, seconds: float) -> list[cmd.Command]:
        """Let that much time pass, in which every device with a live lease shows progress, so that none expires."""
        end, commands = self.now + seconds, []
        while self.now < end:
            commands += self.pass_s(min(5.0, end - self.now))
            for lease in self._live():
                self(ev.Progressed(device=lease.record.device, lease=lease.record.lease))
        return commands

    def fail(self, device: str) -> list[cmd.Command]:
        """Let a device say that it could not."""
        return self(ev.Failed(device=device, lease=self.lease_of(device), reason=Reason.TRAINING))

    def write(self, **metrics: float) -> list[cmd.Command]:
        """Let the version that was asked for become durable, and published."""
        version = self.machine.version + 1
        written = ev.VersionWritten(version=version, digest=DIGEST, metrics=tuple(metrics.items()))
        return self(written, ev.Published(version=version))

    def round(self, *devices: str, **metrics: float) -> list[cmd.Command]:
        """Let devices check in, report until the round closes, and its version be committed."""
        commands = self.check_in(*devices)
        for device in devices:
            if self.is_in(Phase.REPORTING) and self.machine.leases.live_of(device) is not None:
                commands += self.report(device)
        return commands + self.write(**metrics)

    def is_in(self, phase: Phase) -> bool:
        """Whether the machine is in this phase."""
        return self.machine.phase is phase

    def _live(self) -> list[Lease]:
        names = {lease.record.lease: lease for lease in self.machine.leases.open(Kind.TRAIN)}
        return [lease for lease in names.values() if self.machine.leases.live_of(lease.record.device) is lease]

    def _done(self, commands: list[cmd.Command]) -> list[cmd.Command]:
        return list(self._flat(commands))

    def _flat(self, commands: "list[cmd.Command] | tuple[cmd.Command, ...]") -> Iterator[cmd.Command]:
        for command in commands:
            yield command
            if isinstance(command, cmd.Journal):
                self.records.append(command.record)
                yield from self._flat(command.then)


def reporting(**tables: Any) -> Engine:
    """A round that six devices have been asked for."""
    engine = Engine(some_settings(**tables))
    engine.check_in(*SIX)
    assert engine.is_in(Phase.REPORTING)
    assert engine.leased() == SIX
    return engine


def receipts(commands: list[cmd.Command]) -> list[tuple[str, Outcome, Reason | None, bool]]:
    """Return what devices were told about leases."""
    return [(each.device, each.outcome, each.reason, each.repeat) for each in commands_in(commands, cmd.SendReceipt)]


def rows(commands: list[cmd.Command]) -> list[Record]:
    """Return what was journalled."""
    return [each.record for each in commands_in(commands, cmd.Journal)]
