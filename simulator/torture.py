"""Torture: real brokers, aggregators and devices, killed over and over, and not one update lost or counted twice.

One run after the other, each with a plan of its own that follows from the seed; after each, everything that is left is
checked, and the sums go to the tally. A run that keeps every promise is deleted, one that breaks any is kept.

Not here: what is done to a run (`torture_plan.py`, `torture_run.py`), the command (`torture_command.py`).
"""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from shared.task_groups import rethrow
from simulator.torture_broker import KillableBroker, killable_broker
from simulator.torture_checks import Verdict
from simulator.torture_nursery import Nursery, nursery
from simulator.torture_plan import Scale, plan_run
from simulator.torture_run import TortureRun
from simulator.torture_tally import Tally

__all__ = ["SHORT", "TALLY", "Limits", "Torture"]

TALLY = "tally.json"
SHORT = Scale(
    processes=2,
    devices=10,
    report_goal=12,
    versions=1000,
    longest_run_s=1000,
    broker_every_s=2,
    devices_every_s=2.5,
    life_s=0.8,
)
"""For a minute in the test suite: more kills, fewer updates; its runs are judged unfinished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a sitting ends; whichever comes first.

    Args:
        seconds: of this sitting.
        runs: of this sitting.
        run_seconds: of each run, finished or not.
        updates, aggregators, brokers: in the tally, updates and killed ones; all three together.
    """

    seconds: float | None = None
    runs: int | None = None
    run_seconds: float | None = None
    updates: int | None = None
    aggregators: int = 0
    brokers: int = 0

    def are_reached_by(self, tally: Tally) -> bool:
        """Whether the tally has all that is wanted."""
        return (
            self.updates is not None
            and tally.updates >= self.updates
            and tally.aggregator_kills >= self.aggregators
            and tally.kills["broker"] >= self.brokers
        )


class Torture:
    """A torture in one folder, over as many sittings as it takes.

    Args:
        folder: the tally, and every run that broke a promise.
        tally: as loaded from the folder.
        scale: how large its runs are.
        say: takes a line for a person, after every run.
    """

    def __init__(self, folder: Path, tally: Tally, scale: Scale, say: Callable[[str], None]) -> None:
        self._folder, self._tally, self._scale, self._say = folder, tally, scale, say
        self._run: TortureRun | None = None
        self._run_begun = 0.0

    def progress(self) -> str:
        """Return a line about the run that is under way."""
        if self._run is None:
            return "starting"
        seconds = asyncio.get_running_loop().time() - self._run_begun
        kills = self._run.kills
        n_aggregators = sum(count for kind, count in kills.items() if kind.startswith("aggregator"))
        return (
            f"run {self._tally.runs}, {seconds:.0f} s: killed {n_aggregators} aggregators, {kills['broker']} brokers, "
            f"{kills['devices']} devices; before it {self._tally.updates} updates, "
            f"{len(self._tally.violations)} violations"
        )

    async def run(self, limits: Limits, stop: asyncio.Event | None = None) -> None:
        """Go on until a limit is reached, `stop` is set or a promise is broken.

        A run that is under way at its end is judged as it stands.

        Raises:
            ConfigError: there is no Mosquitto.
        """
        if limits.are_reached_by(self._tally):
            return
        stop = stop or asyncio.Event()
        loop = asyncio.get_running_loop()
        begun, tally = loop.time(), self._tally
        last, n_violations = tally.runs + (limits.runs or 10**9), len(tally.violations)
        self._folder.mkdir(parents=True, exist_ok=True)
        timer = None if limits.seconds is None else loop.call_later(limits.seconds, stop.set)
        try:
            async with (
                killable_broker(self._folder, Random(begun)) as broker,
                nursery() as ward,
                asyncio.TaskGroup() as group,
            ):
                listening = group.create_task(ward.listen(), name="nursery")
                while not (stop.is_set() or tally.runs >= last or limits.are_reached_by(tally)):
                    await self._one(ward, broker, stop, limits.run_seconds)
                    if len(tally.violations) > n_violations:
                        break
                listening.cancel()
        except BaseExceptionGroup as errors:
            rethrow(errors)
        finally:
            if timer is not None:
                timer.cancel()

    async def _one(self, ward: Nursery, broker: KillableBroker, stop: asyncio.Event, longest_s: float | None) -> None:
        begun, index = asyncio.get_running_loop().time(), self._tally.runs
        self._run_begun = begun
        plan = plan_run(self._tally.seed, index, self._scale)
        folder = self._folder / plan.name
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)  # of a sitting that was killed
        self._run = run = TortureRun(plan, self._scale, folder, ward, broker)
        verdict = await run.run(stop, longest_s)
        seconds = asyncio.get_running_loop().time() - begun
        self._tally.add(verdict, kills=run.kills, faults=run.faults, seconds=seconds, folder=folder)
        self._tally.save(self._folder / TALLY)
        self._say(self._line(f"{plan.kind}, {plan.waits}", verdict, seconds))
        if not verdict.violations:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _line(self, kind: str, verdict: Verdict, seconds: float) -> str:
        tally = self._tally
        return (
            f"run {tally.runs - 1} ({kind}): {verdict.updates} updates, {verdict.accepted} counted, {seconds:.0f} s, "
            f"{len(verdict.violations)} violations; so far {tally.updates} updates in {tally.seconds:.0f} s, "
            f"killed {tally.aggregator_kills} aggregators, {tally.kills['broker']} brokers, "
            f"{tally.kills['devices']} devices; {len(tally.violations)} violations"
        )
