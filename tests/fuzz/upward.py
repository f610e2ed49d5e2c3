"""An aggregator with rounds under way, and what a fleet of hostile devices may send it.

Reception, intake, round machine, part files and the sum are the real ones; only the journal is missing, whose rows are
durable at once, and the broker. Between hostile payloads honest ones bring rounds to their end, so that there always
are leases that were granted, are half uploaded, or are final.

Not here: how a message is spoilt (`mutation.py`), running it (`running.py`).
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator.announcements import Announcements
from aggregator.codec_choice import CodecChoice, sizes_of
from aggregator.config import Settings
from aggregator.folding import fold
from aggregator.intake import Intake
from aggregator.part_files import PartFiles
from aggregator.phases import PauseCause
from aggregator.reception import Reception
from aggregator.round_machine import RoundMachine
from aggregator.rule_settings import RuleSettings
from aggregator.rules import OpenRound, load_cohort_rule, rule_of
from aggregator.update_rows import UpdateRows
from aggregator.uploads import Uploads
from broker.transport import Message
from shared.codecs import CODECS
from shared.errors import InvalidState
from shared.messages import ModelRef
from shared.topics import Topics
from tests.fuzz.hostile_devices import DEVICES, SPEC, HostileDevices
from tests.fuzz.world import MeteredBlocking, Payload

__all__ = ["AggregatorWorld"]

RUN = "fuzz"
MAX_NORM = 1e4
GRANTED_BYTES = 8 * 4096
"""So little that devices have to wait for grants."""
DIGEST = "d" * 64
ENDED_AT_ONCE = 24
"""Leases of two rounds, whose files wait to be deleted."""
RULES: tuple[Mapping[str, Any], ...] = (
    {"name": "mean"},
    {"name": "median"},
    {"name": "trimmed-mean", "byzantine": 2},
    {"name": "krum", "byzantine": 2},
    {"name": "multi-krum", "byzantine": 1},
    {"name": "bulyan", "byzantine": 1},
    {"name": "geometric-median"},
    {"name": "centered-clipping", "radius": 10.0},
    {"name": "median", "byzantine": 2, "mixing": "nearest"},
)
"""The first makes every other version, the rest in turn; the quorum of 7 is enough for all of them."""


def settings_of(folder: Path) -> Settings:
    """Return settings of a run that never ends."""
    return Settings.model_validate(
        {
            "task": "tests.integration.linear:LinearTask",
            "run": RUN,
            "round": {"report_goal": 8, "over_selection": 1.5, "window_s": {"min": 20, "max": 60}},
            "training": {"codec": "auto"},
            "server": {"max_norm": MAX_NORM},
            "evaluation": {"federated_every": 3, "devices": 4, "window_s": 20},
            "stop": {"rounds": 10**9},
            "transfer": {"chunk_bytes": 4096, "inline_bytes": 16_384},
            "output": {"folder": folder},
        }
    )


class _AnyCodec(CodecChoice):
    """Gives a device any codec that it speaks, whatever its link: all of them are met in one round."""

    def __init__(self, settings: Settings, rng: Random) -> None:
        super().__init__(settings, sizes_of(SPEC))
        self._rng = rng

    def of(self, speaks: Collection[str], **link: Any) -> str | None:
        """See `CodecChoice`; float32, which alone takes several chunks, as often as all others."""
        known = sorted(speaks)
        if not known:
            return None
        return self._rng.choice(("float32" if "float32" in speaks else known[0], self._rng.choice(known)))


class AggregatorWorld:
    """Everything of the aggregator that a device can reach.

    Args:
        folder: for part files.
        rng: of the payloads, the delays and the passing of time.
    """

    name = "aggregator"

    def __init__(self, folder: Path, rng: Random) -> None:
        settings = settings_of(folder)
        self._rng = rng
        self.counts: Counter[str] = Counter()
        self.machine = RoundMachine(settings, update_bytes=sizes_of(SPEC), lease_prefix=RUN)
        self.machine.invitations._codecs = _AnyCodec(settings, rng)
        self.uploads = Uploads(max_bytes=GRANTED_BYTES, max_chunks=40)
        self.blocking = MeteredBlocking(rng)
        self.files = PartFiles(folder)
        self._inbox: deque[ev.Event] = deque()
        self.intake = Intake(
            self.uploads,
            self.files,
            self.blocking,
            spec=SPEC,
            max_norm=MAX_NORM,
            tell=self._inbox.append,
        )
        topics = Topics(settings.fleet)
        self.reception = Reception(
            settings,
            run=RUN,
            topics=topics,
            spec=SPEC,
            leases=self.machine.leases,
            intake=self.intake,
            tell=self._inbox.append,
        )
        self._words = Announcements(settings, run=RUN, machine=self.machine, instance="fuzz")
        self._rules = [
            rule_of(
                load_cohort_rule(RuleSettings.model_validate(each), folder),
                partial(UpdateRows, folder),
                is_trainable=SPEC.is_trainable,
            )
            for each in RULES
        ]
        self._sums: dict[int, OpenRound] = {}
        self._spent: dict[int, list[str]] = {}
        self.devices = HostileDevices(rng, topics, RUN, self.machine.leases, self.uploads)
        self._worker = asyncio.create_task(self.intake.run(), name="intake")
        self._step = 0.0  # norm of the last one that the model took, as a share of what its rule may make of it
        self._execute(self.machine.start(self._now))
        for device in DEVICES:
            self._inbox.append(ev.CheckedIn(device=device))
        self._decide()

    async def close(self) -> None:
        """Stop working."""
        self._worker.cancel()
        await asyncio.wait([self._worker])

    # a payload

    def draw(self) -> Payload:
        return self.devices.draw()

    async def take(self, payload: Payload) -> None:
        before = self.reception.refused.copy()
        self.reception.receive(Message(payload.topic, payload.data, payload.retained), self._now)
        self.counts.update({str(reason): n for reason, n in (self.reception.refused - before).items()})
        self._decide()
        await asyncio.sleep(self._step_s())
        self._decide()

    def check(self) -> None:
        if self._worker.done():
            self._worker.result()
            raise InvalidState("the intake has ended")
        if PauseCause.ERROR in self.machine.pausing.causes:
            raise InvalidState(f"the run is paused: {self.machine.pausing.causes[PauseCause.ERROR]}")
        if not self._step <= 1.001:
            raise InvalidState(f"the model moved by {self._step:g} x what updates of at most {MAX_NORM} can move it")
        n_open = sum(1 for _ in self.machine.leases.open())
        if self.intake.n_reports > n_open:
            raise InvalidState(f"{self.intake.n_reports} reports are kept for {n_open} open leases")
        if self.uploads.granted_bytes + self.intake.unwritten_bytes > GRANTED_BYTES:
            raise InvalidState(
                f"{self.uploads.granted_bytes} bytes are granted and {self.intake.unwritten_bytes} wait for the disk, "
                f"{GRANTED_BYTES} may"
            )
        if self.intake.n_waiting > 2 * (n_open + ENDED_AT_ONCE) + GRANTED_BYTES // 4096:
            raise InvalidState(f"{self.intake.n_waiting} steps wait for {n_open} open leases")

    def check_books(self) -> None:
        self.machine.check()

    # between payloads

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _step_s(self) -> float:
        """Return how long nothing arrives: mostly a moment, sometimes nothing at all, sometimes long."""
        if self.devices.is_flooding:
            return 0.0
        chance = self._rng.random()
        return self._rng.uniform(10.0, 100.0) if chance > 0.998 else self._rng.expovariate(25.0)

    def _decide(self) -> None:
        """Let the machine hear what happened, and grant what may be granted."""
        now = self._now
        while self._inbox or ((deadline := self.machine.deadline) is not None and deadline <= now):
            event = self._inbox.popleft() if self._inbox else ev.DeadlinePassed()
            self._execute(self.machine.handle(event, now))
        if self.intake.changed.is_set() or (self.uploads.deadline or math.inf) <= now:
            self.intake.changed.clear()
            for grant in self.uploads.grants(now, unwritten_bytes=self.intake.unwritten_bytes):
                self._words.grant(self.machine.leases[grant.lease].record.device, grant)

    def _execute(self, commands: Iterable[cmd.Command]) -> None:
        for command in commands:
            match command:
                case cmd.Journal(then=then):
                    self._execute(then)
                case cmd.Assign(lease=lease, device=device):
                    self.reception.leased(device, lease)
                    version = self.machine.leases[lease].record.base_version
                    ref = ModelRef(version=version, digest=DIGEST, index_bytes=1, chunk_bytes=4096)
                    self._words.assignment(command, {version: ref})
                case cmd.SendReceipt():
                    self._words.receipt(command)
                    if not command.repeat:
                        self.counts[str(command.reason or command.outcome)] += 1
                case cmd.Cancel(reason=reason):
                    self._words.cancel(command)
                    self.counts[str(reason)] += 1
                case cmd.ComeBack(reason=reason):
                    self._words.come_back(command)
                    self.counts[f"come back: {reason}"] += 1
                case cmd.TakeUpload(lease=lease):
                    self.intake.take(lease)
                case cmd.DropUpload(lease=lease):
                    self.intake.drop(lease)
                case cmd.Fold():
                    self._fold(command)
                case cmd.Aggregate(into=into):
                    takes_s = self._rng.uniform(0.0, 2.0)
                    asyncio.get_running_loop().call_later(takes_s, self._aggregate, into)
                case cmd.PublishModel(version=version):
                    self._inbox.append(ev.Published(version=version))

    def _fold(self, command: cmd.Fold) -> None:
        """Give an accepted update to the rule whose turn it is: what it yields is finite and within the norm."""
        record = command.record
        self.intake.decided(record.lease)
        data = record.data if record.data is not None else self.files.open(record.lease).data
        rule = self._rules[self._turn(record.into)]
        if record.into not in self._sums:
            self._sums[record.into] = rule.init(SPEC.n_params)
        fold(rule, self._sums[record.into], CODECS[record.codec], data, weight=record.weight)
        self._spent.setdefault(record.into, []).append(record.lease)
        self.counts[f"accepted as {record.codec}"] += 1

    def _turn(self, into: int) -> int:
        return 1 + into // 2 % (len(RULES) - 1) if into % 2 else 0

    def _aggregate(self, into: int) -> None:
        used = RULES[self._turn(into)]
        delta = self._rules[self._turn(into)].finalize(self._sums.pop(into))
        # of any two updates a coordinate's middle may be the larger one: no more than sqrt(2) of the largest norm
        most = MAX_NORM if used["name"] == "mean" else MAX_NORM * 2**0.5
        self._step = math.sqrt(float((delta**2).sum())) / most
        self.counts[f"version by {'mixed ' * ('mixing' in used)}{used['name']}"] += 1
        for lease in self._spent.pop(into):
            self.intake.drop(lease)
        self._inbox.append(ev.VersionWritten(version=into, digest=DIGEST))
