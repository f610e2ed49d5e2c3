"""A scenario in virtual time: the real services on the simulated broker, until the run is finished.

Not here: what befalls whom (`fates.py`), what is written at the end (`report.py`), the terminal (`view.py`).
"""

import asyncio
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from aggregator.config import Settings
from aggregator.phases import PauseCause, Phase
from aggregator.results import RunResult
from broker.simulated import SimulatedBroker
from edge_client.config import EdgeSettings
from edge_client.device_work import spec_of
from edge_client.training import carry_out
from shared.blocking import Lane
from shared.errors import FederationError, leaf_of
from shared.messages import AggregatorStatus
from shared.parameters import ParameterSpec
from shared.task import Client, ClientId, Task
from shared.topics import RoundTopic
from simulator.attackers import Attacker
from simulator.fleet import AGGREGATOR, Fleet
from simulator.inline_blocking import COARSE, DelayRange
from simulator.runs.body import Body, conditions_at
from simulator.runs.executors import Executor
from simulator.runs.fates import Fates
from simulator.runs.ledger import Ledger, Spent, radio_s
from simulator.runs.pace import Pace
from simulator.runs.waiting import waits_for
from simulator.scenario import PlannedDevice, Scenario
from simulator.scenarios.faults import drops_out
from simulator.scenarios.traces import Trace
from simulator.virtual_time import VirtualTimeLoop

__all__ = ["INTERRUPTED", "LIMIT", "Moment", "Sample", "Simulated", "Simulation"]

LIMIT, INTERRUPTED = "virtual_limit", "interrupted"
"""How a run may end besides the aggregator's own causes."""
PLAIN_BATCH_S = 0.05
"""Seconds a batch of a device without a class."""
TICK_S = 5.0
"""Virtual seconds between looks at how it goes."""
SHOW_EVERY_S = 0.25
"""Real seconds between two pictures of it."""
DELAYS: Mapping[Lane, DelayRange] = {**COARSE, Lane.JOURNAL: (0.001, 0.01), Lane.TRAINING: (0.02, 0.1)}
"""How long work takes that is no training of a device: the aggregator's journal, and its central evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the fleet had spent at an instant.

    Args:
        at_s: virtual seconds from the begin.
        bytes_up, bytes_down: over all devices' links.
        training_s: seconds of training over all devices.
        radio_s: seconds with bytes on the link over all devices.
    """

    at_s: float
    bytes_up: int
    bytes_down: int
    training_s: float
    radio_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """How it goes, for whoever watches.

    Args:
        at_s: virtual seconds from the begin.
        wall_s: real seconds from the begin.
        n_events: timers that were set so far.
        status: the aggregator's; None: not there yet.
        n_on: devices that are switched on.
        n_devices: of the fleet.
        n_fits: trainings and evaluations so far.
    """

    at_s: float
    wall_s: float
    n_events: int
    status: AggregatorStatus | None
    n_on: int
    n_devices: int
    n_fits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What came of it.

    Args:
        cause: why it ended.
        result: the aggregator's; None: it was interrupted, or its time was up.
        waits_for: what it waited for then; None: it has come to its end.
        virtual_s: how long it took the fleet.
        wall_s: how long it took this machine.
        n_events: timers that were set.
        peak_memory_bytes: of this process, so far.
        spent: by device.
        samples: when a round began or ended.
        struck: what befell the fleet, and how often.
        n_fits: trainings and evaluations that ran.
    """

    cause: str
    result: RunResult | None
    waits_for: str | None
    virtual_s: float
    wall_s: float
    n_events: int
    peak_memory_bytes: int
    spent: Mapping[str, Spent]
    samples: tuple[Sample, ...]
    struck: Mapping[str, int]
    n_fits: int


@dataclass(slots=True)
class Simulation:
    """One run of a scenario. To be run once, in a `VirtualTimeLoop`.

    Args:
        scenario: the fleet.
        settings: of the run; it has a name.
        task: what is learned.
        traces: by the paths that the scenario names.
        executor: who computes.
        say: takes lines for people.
        show: is shown now and then how it goes.
        beside: where code that the settings name is looked for first.
    """

    scenario: Scenario
    settings: Settings
    task: Task
    traces: Mapping[Path, tuple[Trace, ...]]
    executor: Executor
    say: Callable[[str], None] = lambda line: None
    show: Callable[[Moment], None] = lambda moment: None
    beside: Path = Path()
    ledger: Ledger = field(default_factory=Ledger)
    _samples: list[Sample] = field(default_factory=list)
    _trainings: dict[str, int] = field(default_factory=dict)
    _fates: Fates | None = None

    async def run(self) -> Simulated:
        """Run it to its end; a cancellation ends it early, with what there is.

        Raises:
            FederationError: what the operator wrote cannot work, or something of ours is broken.
        """
        loop, began = asyncio.get_running_loop(), time.monotonic()
        assert isinstance(loop, VirtualTimeLoop)
        loop.hold = self.executor.hold
        plan = self.scenario.plan()
        try:
            cause, result, waited, spent = await self._live(plan, loop, began)
        except BaseExceptionGroup as group:
            error = leaf_of(group)
            if isinstance(error, FederationError):
                raise error from group
            raise
        finally:
            loop.hold = None
        return Simulated(
            cause=cause,
            result=result,
            waits_for=waited,
            virtual_s=loop.time(),
            wall_s=time.monotonic() - began,
            n_events=loop.n_timers,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            spent=spent,
            samples=tuple(self._samples),
            struck=dict(self._fates.struck) if self._fates is not None else {},
            n_fits=self.ledger.n_fits,
        )

    async def _live(
        self, plan: tuple[PlannedDevice, ...], loop: VirtualTimeLoop, began: float
    ) -> tuple[str, RunResult | None, str | None, dict[str, Spent]]:
        settings = self.settings
        edge = EdgeSettings()
        async with Fleet(
            settings,
            self.task,
            Path("/simulated"),
            seed=settings.seed,
            edge=edge,
            in_memory=True,
            delays=DELAYS,
            show=partial(self._see, loop),
            beside=self.beside,
        ) as fleet:
            self._broker, self._plan = fleet.broker, plan
            self._round_topic = fleet.topics.build(RoundTopic(settings.run or ""))
            spec = spec_of(self.task)
            fates = self._fates = Fates(
                fleet,
                plan,
                self.scenario.faults,
                traces=self.traces,
                seed=settings.seed,
                start_hour=self.scenario.start_hour,
                spread_s=settings.transfer.reconnect_window_s,
                ledger=self.ledger,
                say=lambda line: self.say(f"{loop.time():.1f} s  {line}"),
            )
            colluders = [
                Client(id=ClientId(each.id), partition=each.partition) for each in plan if each.attack is not None
            ]
            for device in plan:
                body = self._body(device, fates, spec)
                fleet.add(
                    device.id,
                    partition=device.partition,
                    link=device.link,
                    body=body,
                    carry_out=carry_out if device.attack is None else Attacker(device.attack, self.task, colluders),
                    is_on=False,
                )
            fleet.start_aggregator()
            async with asyncio.TaskGroup() as group:
                fates.begin(group)
                watcher = group.create_task(self._watch(fleet, fates, loop, began), name="watch")
                cause, result = await self._end(fleet)
                waited = None if result is not None else waits_for(fleet.status)
                fates.end()
                watcher.cancel()
            now = loop.time()
            spent = {
                device.id: self.ledger.spent(device.id, fleet.broker.bytes_of(device.id), device.link, now)
                for device in plan
            }
        return cause, result, waited, spent

    async def _end(self, fleet: Fleet) -> tuple[str, RunResult | None]:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout_at(self.scenario.virtual_limit_s):
                result = await fleet.result()
        except TimeoutError:
            return LIMIT, None
        except asyncio.CancelledError:
            task.uncancel()
            return INTERRUPTED, None
        return result.cause, result

    def _body(self, device: PlannedDevice, fates: Fates, spec: ParameterSpec) -> Body:
        seed, kind = self.settings.seed, device.device_class
        batch_s = kind.batch_s(seed, device.id) or PLAIN_BATCH_S

        def drops() -> float | None:
            number = self._trainings[device.id] = self._trainings.get(device.id, 0) + 1
            return drops_out(device.faults, seed=seed, device=device.id, training=number)

        def pace() -> Pace:
            return Pace(
                self.task,
                batch_s,
                self.executor,
                drops_out=drops,
                die=partial(fates.drop_out, device),
                spent=partial(self.ledger.trained, device.id),
            )

        start_hour = self.scenario.start_hour
        look = partial(conditions_at, device, start_hour=start_hour, now=asyncio.get_running_loop().time)
        name, rules = device.class_name or None, device.eligibility
        state = device.keeps_state
        return Body(device_class=name, eligibility=rules, keeps_state=state, pace=pace, look=look, spec=spec)

    async def _watch(self, fleet: Fleet, fates: Fates, loop: VirtualTimeLoop, began: float) -> None:
        shown = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            _refuse_pause(fleet.status, loop.time())
            wall_s = time.monotonic() - began
            if wall_s - shown >= SHOW_EVERY_S:
                shown = wall_s
                self.show(
                    Moment(
                        at_s=loop.time(),
                        wall_s=wall_s,
                        n_events=loop.n_timers,
                        status=fleet.status,
                        n_on=fates.n_on,
                        n_devices=len(self._plan),
                        n_fits=self.ledger.n_fits,
                    )
                )

    _broker: SimulatedBroker = field(init=False)
    _plan: tuple[PlannedDevice, ...] = field(init=False)
    _round_topic: str = field(init=False)

    def _see(self, loop: VirtualTimeLoop, name: str, topic: str, payload: bytes) -> None:
        """Take a sample whenever the aggregator says how the round stands."""
        if name == AGGREGATOR and topic == self._round_topic:
            plan = self._plan
            traffic = [self._broker.bytes_of(device.id) for device in plan]
            self._samples.append(
                Sample(
                    at_s=loop.time(),
                    bytes_up=sum(up for up, _ in traffic),
                    bytes_down=sum(down for _, down in traffic),
                    training_s=self.ledger.training_s,
                    radio_s=sum(radio_s(each, device.link) for each, device in zip(traffic, plan, strict=True)),
                )
            )


def _refuse_pause(status: AggregatorStatus | None, now: float) -> None:
    """End a run that has paused for an error: in a simulation nobody resumes it.

    Raises:
        FederationError: with the cause.
    """
    causes = status.causes if status is not None and status.phase == Phase.PAUSED else []
    for cause in causes:
        if cause.startswith(f"{PauseCause.ERROR}:"):
            raise FederationError(f"the aggregator paused at {now:.0f} s of virtual time, {cause}")
